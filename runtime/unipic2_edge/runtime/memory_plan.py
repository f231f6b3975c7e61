"""The memory plan: which graphs stay on the device, and which are loaded when their turn comes and let go after it.

A picture passes its graphs one after another, so that activations share one arena, and a graph that is not resident
needs its weights only during its own turn. The plan keeps as many bytes of weights as the budget allows: what is
not kept is read again for every picture.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from .errors import RequestError

#: What CUDA, the library and its kernels take beside engines; an estimate, until it is measured on a card.
CONTEXT_BYTES = 400_000_000
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


@dataclass(frozen=True)
class Need:
    """What one graph needs on the device while it runs, in bytes.

    Graphs of one `group` run by turns within one piece of work and are on the device together; by default each is its
    own group.
    """

    graph: str
    weights: int
    activations: int
    group: str | None = None

    @property
    def together(self) -> str:
        """The group's name."""
        return self.group or self.graph


@dataclass(frozen=True)
class MemoryPlan:
    """The graphs that stay on the device, the ones that come and go, and the bytes at the fullest moment."""

    resident: tuple[str, ...]
    swapped: tuple[str, ...]
    peak_bytes: int

    def describe(self) -> str:
        """For people, in one line."""
        stays = ", ".join(self.resident) or "nothing"
        goes = f"; one after another: {', '.join(self.swapped)}" if self.swapped else ""
        return f"{self.peak_bytes / 1e9:.1f} GB at the peak; resident: {stays}{goes}"


def plan_memory(needs: Sequence[Need], budget: int, context: int = CONTEXT_BYTES) -> MemoryPlan:
    """The plan that reads the fewest bytes for a picture, within a budget.

    Args:
        needs: of the graphs a picture passes.
        budget: bytes of device memory that may be used.
        context: bytes taken beside engines.

    Raises:
        RequestError: a graph does not fit even alone; what would be enough is said.
    """
    hungriest = max(needs, key=lambda need: _at_once(need, needs) + need.activations)
    weights_at_once = _at_once(hungriest, needs)
    least = context + weights_at_once + hungriest.activations
    if least > budget:
        raise RequestError(
            f"{hungriest.graph} alone needs {least / 1e9:.1f} GB of device memory"
            f" ({weights_at_once / 1e9:.1f} weights, {hungriest.activations / 1e9:.1f} activations),"
            f" and {budget / 1e9:.1f} GB may be used",
            "build for smaller pictures (--max), or export with a recipe of fewer bits",
        )
    plans = (_plan(needs, kept, context) for kept in _choices(needs))
    fitting = (plan for plan in plans if plan.peak_bytes <= budget)
    weights = {need.graph: need.weights for need in needs}
    return max(
        fitting,
        key=lambda plan: (sum(weights[name] for name in plan.resident), len(plan.resident), -plan.peak_bytes),
    )


def parse_memory(text: str) -> int:
    """Bytes of a text like "8GB", "7.5G" or "6GiB".

    Raises:
        RequestError: it is not that.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?I?)B?", text.strip().upper())
    if match is None or match[2] not in _UNITS or not float(match[1]):
        raise RequestError(f"{text!r} is no amount of memory", "give one like 8GB")
    return int(float(match[1]) * _UNITS[match[2]])


def _choices(needs: Sequence[Need]) -> Iterator[tuple[Need, ...]]:
    """Every set of graphs that could stay; there are few graphs."""
    for count in range(len(needs) + 1):
        yield from combinations(needs, count)


def _at_once(need: Need, among: Sequence[Need]) -> int:
    """Bytes of weights, of those among which come and go, that are there while a graph runs."""
    return sum(other.weights for other in among if other.together == need.together)


def _plan(needs: Sequence[Need], kept: Sequence[Need], context: int) -> MemoryPlan:
    staying = sum(need.weights for need in kept)
    going = [need for need in needs if need not in kept]
    moments = [need.activations + _at_once(need, going) for need in needs]
    return MemoryPlan(
        resident=tuple(need.graph for need in kept),
        swapped=tuple(need.graph for need in needs if need not in kept),
        peak_bytes=context + staying + max(moments),
    )
