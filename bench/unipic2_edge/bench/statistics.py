"""Samples of seconds, and ratios of interleaved samples: medians with their spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Median, quartiles and extremes of a sample."""

    median: float
    low: float
    high: float
    least: float
    most: float
    count: int

    def to_dict(self) -> dict[str, float]:
        """JSON-ready fields."""
        return asdict(self)


@dataclass(frozen=True)
class Percentiles:
    """What users wait: median, tails, quartiles, mean and standard deviation of a sample."""

    p50: float
    p90: float
    p99: float
    mean: float
    stdev: float
    low: float
    high: float
    count: int

    def to_dict(self) -> dict[str, float]:
        """JSON-ready fields."""
        return asdict(self)


def percentiles(samples: Sequence[float]) -> Percentiles:
    """Of at least one sample, interpolated between its values; `low` and `high` are the quartiles.

    With fewer than a hundred samples the 99th percentile lies between the two largest.
    """
    low, middle, high, late, last = (float(value) for value in np.percentile(samples, (25, 50, 75, 90, 99)))
    stdev = float(np.std(samples, ddof=1)) if len(samples) > 1 else 0.0
    return Percentiles(middle, late, last, float(np.mean(samples)), stdev, low, high, len(samples))


def spread(samples: Sequence[float]) -> Spread:
    """The spread of at least one sample; `low` and `high` are the quartiles."""
    low, median, high = (float(value) for value in np.percentile(samples, (25, 50, 75)))
    return Spread(median, low, high, float(min(samples)), float(max(samples)), len(samples))


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """The spread of pairwise ratios: samples taken one right after the other share the machine's mood."""
    return spread([a / b for a, b in zip(numerators, denominators, strict=True)])
