"""How figures read: seconds, bytes, spreads, shares with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..page import Share

Fields = Mapping[str, Any]
_GAP = "\u00a0"  # a number and its unit stay on one line


def seconds(value: float) -> str:
    """1.23 s, 4.56 ms or 7.89 µs."""
    size = abs(value)
    if size >= 1:
        return f"{value:.2f}{_GAP}s"
    return f"{1e3 * value:.3g}{_GAP}ms" if size >= 1e-3 else f"{1e6 * value:.3g}{_GAP}µs"


def amount(value: float | None) -> str:
    """Bytes in MB or GB; nothing for nothing."""
    if value is None:
        return ""
    return f"{value / 1e9:.2f}{_GAP}GB" if value >= 1e9 else f"{value / 1e6:.2f}{_GAP}MB"


def middle(sample: float | Fields) -> float:
    """The median of a sample as reports have it: a number, or fields with `median` or `p50`.

    Raises:
        KeyError: it has neither.
    """
    if isinstance(sample, Mapping):
        return float(sample["p50"] if "p50" in sample else sample["median"])
    return float(sample)


def spread_cells(sample: Fields) -> list[str]:
    """Median, quartiles, extremes and count of seconds."""
    low, high, least, most = (seconds(sample[name]) for name in ("low", "high", "least", "most"))
    return [seconds(sample["median"]), f"{low}–{high}", f"{least}–{most}", str(sample["count"])]


def times(sample: Fields) -> str:
    """A ratio with its quartiles."""
    return f"{sample['median']:.2f}× ({sample['low']:.2f}–{sample['high']:.2f})"


def percent(value: float | None) -> str:
    """A share of 1."""
    return "" if value is None else f"{100 * value:.1f}{_GAP}%"


def share(score: Fields) -> Share:
    """A score with its 95 % interval; `mean` is over the tasks, where there are some."""
    low, high = score["interval_95"]
    return Share(score.get("mean", score["right"] / score["total"]), low, high)


def error(value: float) -> str:
    """A relative error."""
    return "0" if value == 0 else f"{value:.1e}" if value < 1e-3 else f"{value:.4f}"
