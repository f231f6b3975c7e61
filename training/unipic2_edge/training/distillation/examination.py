"""How a student and its teacher are looked at: strict scores of both tasks on prompts that training never samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..grids import save_grid
from ..pipeline import DenoisingPipeline
from ..shapes.captions import evaluation_captions
from ..shapes.edits import evaluation_edits
from ..shapes.render import Picture, render
from ..shapes.scene import Canvas
from ..shapes.scores import score_edits, score_generation

_AT_ONCE = 60  # pictures in a batch
_SHOWN = 32  # of each task, on a grid


class VariantDenoiser:
    """A variant with a denoiser's signature, for a pipeline."""

    def __init__(self, model: nn.Module, variant: str | None) -> None:
        self.model, self.variant = model, variant

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """What the denoiser says as this variant."""
        return self.model(self.variant, *arguments, **options)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return next(self.model.parameters()).dtype


@dataclass(frozen=True)
class Examination:
    """`count` prompts of each task on one canvas; the same noise for whoever is examined."""

    canvas: Canvas
    count: int

    def take(
        self, pipeline: DenoisingPipeline, steps: int, guidance: float, grid: Path | None = None
    ) -> dict[str, float]:
        """Generate and edit; scores of both tasks. The grid: what was generated, then pairs of source and edited."""
        size = (self.canvas.width, self.canvas.height)
        captions = evaluation_captions(self.count, self.canvas, seed=11)
        edits = evaluation_edits(self.count, self.canvas, seed=11)
        sources = [render(edit.source) for edit in edits]
        made = draw(pipeline, [caption.text for caption in captions], None, size, steps, guidance)
        edited = draw(pipeline, [edit.text for edit in edits], sources, size, steps, guidance)
        if grid is not None:
            pairs = [picture for pair in zip(sources[:_SHOWN], edited[:_SHOWN], strict=True) for picture in pair]
            save_grid(grid, made[:_SHOWN] + pairs)
        return {
            "generation": score_generation(captions, made)[0].mean,
            "editing": score_edits(edits, sources, edited)[0].mean,
        }


def draw(
    pipeline: DenoisingPipeline,
    texts: list[str],
    sources: list[Picture] | None,
    size: tuple[int, int],
    steps: int,
    guidance: float,
) -> list[Picture]:
    """A picture of `size` (width, height) for each text, of its source where there are some; always the same noise."""
    config = pipeline.vae.config
    side = 2 ** (len(config.block_out_channels) - 1)
    shape = (len(texts), config.latent_channels, size[1] // side, size[0] // side)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    pictures: list[Picture] = []
    for start in range(0, len(texts), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        pictures += pipeline(
            texts[some],
            noise[some],
            None if sources is None else sources[some],
            num_inference_steps=steps,
            guidance_scale=guidance,
        )[0]
    return pictures
