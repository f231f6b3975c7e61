"""How diffusers' SD3 pipelines are called, its own and optimum's: travels with the latter into other interpreters."""

from __future__ import annotations

from typing import Any

import numpy as np

from .peer import Job, Pixels

_T5_TOKENS = 256  # what SD3 gives T5, whatever its tokenizer would take


def diffuse(pipeline: Any, job: Job, latents: Any) -> tuple[Pixels, Any]:
    """A picture, and its final latents, from given ones; the negative prompt is empty.

    Args:
        pipeline: with diffusers' interface.
        job: a generation.
        latents: initial noise, as the pipeline's tensors.
    """
    final: list[Any] = [latents]

    def keep(_pipeline: Any, _step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        final[0] = values["latents"]
        return {}

    width, height = job.size
    made = pipeline(
        prompt=job.prompt,
        negative_prompt="",
        width=width,
        height=height,
        num_inference_steps=job.steps,
        guidance_scale=job.guidance,
        latents=latents,
        max_sequence_length=min(pipeline.tokenizer_3.model_max_length, _T5_TOKENS),
        callback_on_step_end=keep,
        callback_on_step_end_tensor_inputs=["latents"],
    )
    return np.asarray(made.images[0]), final[0]
