"""What a training stage supplies to the loop: a model, its losses, and what is looked at and kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Stateful(Protocol):
    """Something beside model and optimisers that a run needs to go on exactly where it stopped."""

    def state_dict(self) -> dict[str, Any]:
        """Its state, of tensors and plain values."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a state that `state_dict` gave."""
        ...


class Stage(ABC):
    """One kind of training. The loop owns optimisers, precision, averages, logs and state; the stage owns the rest.

    Everything random in a step is a function of (recipe seed, step), so that a resumed run draws the same.
    """

    model: nn.Module

    @abstractmethod
    def losses(self, step: int, device: torch.device) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """The losses of a step's micro-batches, one after another (the loop divides and backpropagates)."""

    @abstractmethod
    def samples(self, folder: Path, step: int) -> dict[str, float]:
        """Draw sample pictures into `folder`; return scores to log."""

    @abstractmethod
    def finish(self, output: Path) -> None:
        """Write what the stage made, from the (averaged) weights now in `model`."""

    def rate(self, name: str) -> float:
        """The factor on the recipe's learning rate for the parameter of this name in `model`."""
        return 1.0

    def after_step(self, step: int) -> None:  # noqa: B027 - most stages have nothing to do
        """What follows the optimisers' update number `step`, for instance an average of weights."""

    def stateful(self) -> Sequence[Stateful]:
        """What is saved and restored with the run beside `model`."""
        return ()
