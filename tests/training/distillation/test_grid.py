"""A student's levels: the same to diffusers, which trains it, and to the runtime, which runs it."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from unipic2_edge.runtime.scheduler import FlowMatchEuler
from unipic2_edge.training.distillation.grid import (
    between,
    deployed_levels,
    shifted,
    student_scheduler,
    unshifted,
)


def test_without_a_shift_the_levels_are_even() -> None:
    assert deployed_levels(student_scheduler(4, 1.0), 4) == pytest.approx([1, 0.75, 0.5, 0.25, 0], abs=1e-6)


@pytest.mark.parametrize(("steps", "shift"), [(8, 3.0), (4, 3.0), (4, 1.0), (2, 2.0), (1, 3.0)])
def test_no_step_is_lost_and_the_runtime_takes_the_same(steps: int, shift: float) -> None:
    scheduler = student_scheduler(steps, shift)
    levels = deployed_levels(scheduler, steps)
    assert levels[0] == 1
    assert levels[-2] == pytest.approx(shifted(1 / steps, shift), abs=1e-6)
    assert all(later < earlier for earlier, later in pairwise(levels))
    runtime = FlowMatchEuler.from_json(json.dumps(dict(scheduler.config)).encode())
    assert np.abs(runtime.sigmas(steps, 16) - np.array(levels, np.float32)).max() <= 1e-7


def test_levels_in_between_are_even_before_the_shift() -> None:
    levels = between(0.9, 0.3, 3, 3.0)
    assert (levels[0], levels[-1]) == (0.9, 0.3)
    gaps = np.diff([unshifted(level, 3.0) for level in levels])
    assert gaps == pytest.approx([gaps[0]] * 3)
    assert unshifted(shifted(0.37, 3.0), 3.0) == pytest.approx(0.37)
    assert between(1.0, 0.0, 2, 1.0) == pytest.approx([1, 0.5, 0])
