"""Medians, spreads and picture differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

from unipic2_edge.bench.compare import psnr
from unipic2_edge.bench.statistics import ratios, spread


def test_a_spread_has_median_quartiles_and_extremes() -> None:
    found = spread([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (found.least, found.low, found.median, found.high, found.most, found.count) == (1, 2, 3, 4, 5, 5)


def test_ratios_are_of_neighbours_not_of_medians() -> None:
    # A machine that slows down threefold between the pairs changes no ratio.
    found = ratios([2.0, 6.0, 2.0], [1.0, 3.0, 1.0])
    assert (found.least, found.median, found.most) == (2, 2, 2)


def test_ratios_need_as_many_of_each() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_psnr_of_one_level_everywhere_is_48_db() -> None:
    picture = np.full((4, 4, 3), 100, np.uint8)
    assert psnr(picture, picture + 1) == pytest.approx(20 * math.log10(255))
    assert math.isinf(psnr(picture, picture))


def test_psnr_does_not_wrap_around() -> None:
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    assert psnr(black, white) == pytest.approx(0.0)
