"""How a student and its teacher draw: a variant as a pipeline's denoiser, and pictures in batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..pipeline import DenoisingPipeline
from ..shapes.render import Picture

_AT_ONCE = 60  # pictures in a batch


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
