"""Scores weigh tasks equally, and Wilson's interval holds the share."""

from __future__ import annotations

import pytest

from unipic2_edge.training.shapes.scores import score, wilson
from unipic2_edge.training.shapes.verifier import Verdict


def test_mean_weighs_tasks_equally() -> None:
    verdicts = [Verdict(True)] * 9 + [Verdict(False)]
    assert score(["easy"] * 9 + ["hard"], verdicts).mean == pytest.approx(0.5)


def test_wilson_against_published_values() -> None:
    low, high = wilson(8, 10)  # Wilson's interval for 8 of 10 at 95 %: 0.4902 … 0.9433
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 5)[0] == 0.0
    assert wilson(5, 5)[1] == 1.0
