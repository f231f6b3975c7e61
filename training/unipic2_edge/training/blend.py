"""A denoiser between two others: the weighted mean of their weights.

Weights of one ancestor that were trained for different things often blend into one that can both, better than the later
of the two stages does (model soups, arXiv 2203.05482; interpolation against forgetting, arXiv 2109.01903).
"""

from __future__ import annotations

from pathlib import Path

import torch

from .checkpoint import Checkpoint, save_checkpoint
from .errors import CheckpointError, RecipeError


def blend_checkpoints(first: Path, second: Path, share: float, output: Path) -> None:
    """Write the second checkpoint with its denoiser at (1 − share)·first + share·second.

    Args:
        first: a Kontext checkpoint.
        second: one with a denoiser of the same shape; all other parts, and the defaults, are its own.
        share: of the second one's weights, 0…1.
        output: a folder that does not exist yet.

    Raises:
        RecipeError: the share is none, or the denoisers have different shapes.
        CheckpointError: one is no Kontext checkpoint, or damaged, or something stands at `output`.
    """
    if not 0 <= share <= 1:
        raise RecipeError(f"a share of {share} is none", "give one from 0 to 1")
    opened = [Checkpoint.open(first), Checkpoint.open(second)]
    for checkpoint in opened:
        if checkpoint.variant != "kontext":
            raise CheckpointError(f"{checkpoint.folder} is no Kontext checkpoint", "blend checkpoints of that layout")
    mine, made = (checkpoint.load_transformer() for checkpoint in opened)
    before, after = mine.state_dict(), made.state_dict()
    if {name: value.shape for name, value in before.items()} != {name: value.shape for name, value in after.items()}:
        raise RecipeError(f"the denoisers of {first} and {second} have different shapes", "blend those of one ancestor")
    with torch.no_grad():
        for name, value in after.items():
            value.lerp_(before[name], 1 - share)
    save_checkpoint(output, opened[1], opened[1].defaults(), transformer=made)
