"""A denoiser between two others, or one to which is added what another learned.

Weights of one ancestor that were trained for different things often blend into one that can both, better than the later
of the two stages does (model soups, arXiv 2203.05482; interpolation against forgetting, arXiv 2109.01903). What
fine-tuning added to an ancestor can also be added to another descendant (task arithmetic, arXiv 2212.04089): a base
that was trained on gets its few-step student, reinforcement and all, without training either again.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from .checkpoint import Checkpoint, save_checkpoint
from .errors import CheckpointError, RecipeError

Weights = dict[str, torch.Tensor]


def blend_checkpoints(
    first: Path,
    second: Path,
    share: float,
    output: Path,
    since: Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the second checkpoint with its denoiser at (1 − share)·first + share·second.

    With an ancestor given, at first + share·(second − since) instead.

    Args:
        first: a Kontext checkpoint.
        second: one with a denoiser of the same shape; all other parts, and the defaults, are its own.
        share: of the second one's weights, or of what they learned, 0…1.
        output: a folder that does not exist yet.
        since: the ancestor that the second one was trained from.
        dtype: what the denoiser is stored in; it is computed in float32.

    Raises:
        RecipeError: the share is none, the denoisers have different shapes, or a weight is too large for `dtype`.
        CheckpointError: one is no Kontext checkpoint, or damaged, or something stands at `output`.
    """
    if not 0 <= share <= 1:
        raise RecipeError(f"a share of {share} is none", "give one from 0 to 1")
    opened = [Checkpoint.open(folder) for folder in (first, second, since) if folder is not None]
    for checkpoint in opened:
        if checkpoint.variant != "kontext":
            raise CheckpointError(f"{checkpoint.folder} is no Kontext checkpoint", "blend checkpoints of that layout")
    denoisers = [checkpoint.load_transformer() for checkpoint in opened]
    before, after, *ancestor = (denoiser.state_dict() for denoiser in denoisers)
    for weights, checkpoint in zip((before, *ancestor), (opened[0], *opened[2:]), strict=True):
        _check_shapes(weights, after, checkpoint.folder, second)
    with torch.no_grad():
        for name, value in after.items():
            start = before[name]
            value.copy_(start + share * (value - ancestor[0][name]) if ancestor else start.lerp(value, share))
    made = nn.Module.to(denoisers[1], dtype)  # diffusers' own `to` warns of layers that it would keep, and has none
    if not all(bool(value.isfinite().all()) for value in made.state_dict().values()):
        raise RecipeError(f"not all of the denoiser's weights are finite in {dtype}", "store it in another dtype")
    save_checkpoint(output, opened[1], opened[1].defaults(), transformer=made)


def _check_shapes(one: Weights, other: Weights, first: Path, second: Path) -> None:
    if {name: value.shape for name, value in one.items()} != {name: value.shape for name, value in other.items()}:
        raise RecipeError(f"the denoisers of {first} and {second} have different shapes", "blend those of one ancestor")
