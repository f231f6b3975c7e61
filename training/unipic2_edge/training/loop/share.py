"""A process's share of a batch that all processes draw together.

Every process draws what is cheap (row numbers, noise levels, seeds) for the whole global batch from the same generator,
and makes only its own rows of it. So N processes with batches of B train on what one with a batch of N·B trains on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """Which process of how many this is."""

    rank: int = 0
    world: int = 1

    def total(self, own: int) -> int:
        """Rows of the global batch, where each process makes `own`."""
        return own * self.world

    def rows(self, own: int) -> slice:
        """The rows of the global batch, where each process makes `own`."""
        return slice(self.rank * own, (self.rank + 1) * own)

    def noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Its rows [B, …] of standard normal noise on the CPU.

        Each row has a seed of its own, drawn for the global batch from `generator`: what a row holds depends neither
        on the number of processes nor on the rows beside it, and nobody draws noise for others.
        """
        seeds = torch.randint(2**62, (self.total(shape[0]),), generator=generator)[self.rows(shape[0])]
        rows = [torch.randn(shape[1:], generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
        return torch.stack(rows)


WHOLE = Share()
