"""The pipeline led through a calibration set: every prompt generated from, every edit carried out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from PIL import Image

from unipic2_edge.runtime.pipeline import Pipeline

from .calibration_set import CalibrationSet

_BATCH = 8


def lead(pipeline: Pipeline, chosen: CalibrationSet) -> Iterator[tuple[str, list[Image.Image]]]:
    """Generate and edit everything in the set, batch by batch, with fixed seeds; the task and its pictures."""
    settings = chosen.settings
    options: dict[str, Any] = {"num_inference_steps": settings.steps, "guidance_scale": settings.guidance}
    if settings.size is not None:
        options |= {"width": settings.size[0], "height": settings.size[1]}
    for start in range(0, len(chosen.prompts), _BATCH):
        prompts = list(chosen.prompts[start : start + _BATCH])
        made = pipeline.generate(prompts, seed=_seeds(settings.seed, start, len(prompts)), **options)
        yield "generate", made.images
    batch = _edit_batch(chosen)
    for start in range(0, len(chosen.edits), batch):
        part = chosen.edits[start : start + batch]
        pictures, words = [picture for picture, _ in part], [instruction for _, instruction in part]
        made = pipeline.edit(pictures, words, seed=_seeds(settings.seed, start, len(part)), **options)
        yield "edit", made.images


def denoiser_calls(chosen: CalibrationSet, steps: int) -> int:
    """How often the denoiser is called on the way."""
    generations, edits = -(-len(chosen.prompts) // _BATCH), -(-len(chosen.edits) // _edit_batch(chosen))
    return (generations + edits) * (chosen.settings.steps or steps)


def _edit_batch(chosen: CalibrationSet) -> int:
    """Pictures of several shapes do not make one batch."""
    shapes = {picture.size for picture, _ in chosen.edits}
    return _BATCH if chosen.settings.size is not None or len(shapes) == 1 else 1


def _seeds(first: int, start: int, count: int) -> list[int]:
    return [first + start + index for index in range(count)]
