"""What a training stage supplies to the loop: a model, its losses, and what is looked at and kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .share import WHOLE, Share

TOKENS = "tokens"  # among a micro-batch's metrics: how many tokens this process trained on, for the throughput


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

    Everything random in a step is a function of (recipe seed, step), so that a resumed run draws the same; with
    `share` of how many processes there are, each makes its own rows of the same global batch. Gradients flow only
    through a call of `model` itself (not of its parts or methods): around it the processes come together.
    """

    model: nn.Module
    share: Share = WHOLE  # the loop sets it before the first step
    idle_parameters: bool = False  # whether a step may leave some of the trainable parameters without gradient

    @abstractmethod
    def losses(self, step: int, device: torch.device) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """The losses of a step's micro-batches, one after another (the loop divides and backpropagates).

        With each come metrics to log, averaged over micro-batches and processes; `TOKENS` is summed for the throughput.
        """

    @abstractmethod
    def samples(self, folder: Path, step: int) -> dict[str, float]:
        """Draw sample pictures into `folder` (`step-NNNNNNN.png` goes to TensorBoard); return scores to log.

        The main process calls it alone, or, where `model` is sharded, all do, and only the main one's files are kept.
        """

    @abstractmethod
    def finish(self, output: Path) -> None:
        """Write what the stage made, from the (averaged, whole) weights now in `model`; in the main process alone."""

    def rate(self, name: str) -> float:
        """The factor on the recipe's learning rate for the parameter of this name in `model`."""
        return 1.0

    def after_step(self, step: int) -> None:  # noqa: B027 - most stages have nothing to do
        """What follows the optimisers' update number `step`, for instance an average of weights."""

    def flops(self) -> float:
        """Operations of one step in one process, forward and backward, for the log; 0 where that is not known."""
        return 0.0

    def samples_a_step(self) -> int:
        """How many this process makes or learns from in one step, for the log; 0: all micro-batches' rows."""
        return 0

    def stateful(self) -> Sequence[Stateful]:
        """What is saved and restored with the run beside `model`, by each process for itself."""
        return ()
