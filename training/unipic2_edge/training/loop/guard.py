"""What watches over a run's losses and gradients: values that are not finite, and losses that jump."""

from __future__ import annotations

import logging
import math
from typing import Any

from ..errors import WorkError
from ..recipe import Guard

logger = logging.getLogger(__name__)
_MEMORY = 0.98  # of the running mean of the loss
_SETTLED = 20  # steps before jumps are looked for


class StepGuard:
    """Decides after each step's gradients whether they are used. Saved with the run, so that a resumed one counts on.

    Args:
        guard: how many steps may be skipped, and what is a jump.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self.skipped = 0
        self._mean, self._seen = 0.0, 0

    def usable(self, step: int, loss: float, norm: float) -> bool:
        """Whether the step's gradients may be used; if not, it is counted.

        Args:
            step: its number, from 0.
            loss: averaged over micro-batches and processes.
            norm: of the gradients before clipping.

        Raises:
            WorkError: a value is not finite, and no more steps may be skipped.
        """
        wrong = "loss" if not math.isfinite(loss) else "gradient's norm" if not math.isfinite(norm) else None
        if wrong is None:
            return True
        value = loss if wrong == "loss" else norm
        self.skipped += 1
        if self.skipped > self._guard.skips:
            raise WorkError(
                f"the {wrong} is {value} at step {step}"
                + (f", after {self._guard.skips} such steps were skipped" if self._guard.skips else ""),
                "lower the learning rate, or let some pass with guard.skips; the last state is kept",
            )
        logger.warning("step %d skipped: the %s is %s (%d of %d)", step, wrong, value, self.skipped, self._guard.skips)
        return False

    def jump(self, step: int, loss: float) -> float | None:
        """The loss as a multiple of its running mean where that is over `guard.spike`, else none."""
        settled = self._seen >= _SETTLED and self._mean > 0
        times = loss / self._mean if settled and self._guard.spike else 0.0
        self._seen += 1
        keep = min(_MEMORY, (self._seen - 1) / self._seen)
        self._mean = keep * self._mean + (1 - keep) * loss
        if not times > self._guard.spike:
            return None
        logger.warning("step %d: the loss is %.4g, %.1f times its running mean", step, loss, times)
        return times

    def state_dict(self) -> dict[str, Any]:
        """Counts and the running mean."""
        return {"skipped": self.skipped, "mean": self._mean, "seen": self._seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them."""
        self.skipped, self._mean, self._seen = state_dict["skipped"], state_dict["mean"], state_dict["seen"]
