"""The jobs of a comparison: pictures of the shapes world's unseen prompts, and denoising steps of random inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.training.layout import CheckpointFolder
from unipic2_edge.training.shapes.captions import evaluation_captions
from unipic2_edge.training.shapes.edits import evaluation_edits
from unipic2_edge.training.shapes.render import render

from ..quality import PROMPT_SEED, Settings
from .peer import EDIT, GENERATE, STEP, Floats, Job, Pixels

#: Tasks that make pictures.
PICTURES = (GENERATE, EDIT)
_ROWS = 2  # both guidance branches


@dataclass(frozen=True)
class Space:
    """The sizes of a model's inputs: the latents' channels, image pixels a latent pixel, context and pooled width."""

    channels: int
    factor: int
    joint: int
    pooled: int


def space_of_checkpoint(folder: Path) -> Space:
    """By its configs.

    Raises:
        CheckpointError: it is no checkpoint, or its transformer or autoencoder has no config.
    """
    checkpoint = CheckpointFolder.open(folder, partial=True)
    checkpoint.path("transformer")
    config, levels = checkpoint.config("transformer"), len(checkpoint.config("vae")["block_out_channels"])
    return Space(
        config["in_channels"], 2 ** (levels - 1), config["joint_attention_dim"], config["pooled_projection_dim"]
    )


def space_of_bundle(bundle: Bundle) -> Space:
    """By its manifest.

    Raises:
        BundleError: it has no denoiser.
    """
    signature = {spec.name: spec for spec in bundle.graph("modulation").inputs}
    joint, pooled = (int(signature[name].shape[-1]) for name in ("context", "pooled"))
    return Space(bundle.manifest.latents.channels, bundle.manifest.latents.factor, joint, pooled)


def jobs_of(task: str, count: int, settings: Settings, space: Space, context: int) -> list[Job]:
    """`count` jobs and one more before them, which warms up.

    Args:
        task: `generate`, `edit` or `step`.
        count: of those that are timed.
        settings: size, steps, guidance, and the first picture's seed.
        space: the model's.
        context: tokens of text of a step.
    """
    if task == STEP:
        return [_step(settings, space, context)] * (count + 1)
    if task == GENERATE:
        told: list[tuple[str, Pixels | None]] = [
            (caption.text, None) for caption in evaluation_captions(count + 1, settings.canvas, PROMPT_SEED)
        ]
    else:
        edits = evaluation_edits(count + 1, settings.canvas, PROMPT_SEED)
        told = [(edit.text, render(edit.source)) for edit in edits]
    return [
        Job(
            task=task,
            latents=torch_noise((1, *_shape(settings, space)), settings.seed + index),
            prompt=prompt,
            source=source,
            steps=settings.steps,
            guidance=settings.guidance,
            seed=settings.seed + index,
            factor=space.factor,
        )
        for index, (prompt, source) in enumerate(told)
    ]


def torch_noise(shape: tuple[int, ...], seed: int) -> Floats:
    """What torch's generator on a processor draws: stable-diffusion.cpp draws the same from the seed alone."""
    noise: Floats = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).numpy()
    return noise


def _shape(settings: Settings, space: Space) -> tuple[int, int, int]:
    return space.channels, settings.height // space.factor, settings.width // space.factor


def _step(settings: Settings, space: Space, context: int) -> Job:
    random = np.random.default_rng(settings.seed)

    def drawn(*shape: int) -> Floats:
        return random.standard_normal((_ROWS, *shape), dtype=np.float32)

    return Job(
        task=STEP,
        latents=drawn(*_shape(settings, space)),
        seed=settings.seed,
        factor=space.factor,
        context=drawn(context, space.joint),
        pooled=drawn(space.pooled),
    )
