"""The noise levels of a student: the schedule it is trained on is the one that its checkpoint carries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler


def shifted(levels: float, shift: float) -> float:
    """s = k·u / (1 + (k − 1)·u) (SD3, arXiv 2403.03206, §5.3.2)."""
    return shift * levels / (1 + (shift - 1) * levels)


def unshifted(sigma: float, shift: float) -> float:
    """The inverse of `shifted`."""
    return sigma / (shift - (shift - 1) * sigma)


def student_scheduler(steps: int, shift: float) -> FlowMatchEulerDiscreteScheduler:
    """Euler's scheduler whose last of `steps` levels is that of u = 1/steps.

    diffusers spreads its levels down to the training schedule's last, next to nothing, so that the last step of a
    few-step schedule is lost; `shift_terminal` stretches them to where the last step has its share. With shift 1 the
    levels are 1, 1 − 1/N, …, 1/N.
    """
    terminal = shifted(1 / steps, shift) if steps > 1 else None
    return FlowMatchEulerDiscreteScheduler(shift=shift, shift_terminal=terminal)


def deployed_levels(scheduler: FlowMatchEulerDiscreteScheduler, steps: int) -> list[float]:
    """The sigmas of a schedule [steps + 1], from 1 to 0."""
    scheduler.set_timesteps(steps)
    sigmas: list[float] = scheduler.sigmas.tolist()
    return sigmas


def between(start: float, end: float, steps: int, shift: float) -> Sequence[float]:
    """`steps` + 1 sigmas from `start` to `end`, evenly spaced before the shift."""
    u = np.linspace(unshifted(start, shift), unshifted(end, shift), steps + 1)
    return [start, *(shifted(float(level), shift) for level in u[1:-1]), end]
