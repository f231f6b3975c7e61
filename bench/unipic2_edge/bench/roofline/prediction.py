"""What devices that are not here may take: the roofline model, and how near to it the device that is here comes.

A stage's least time on a card is that of its matrix work at the card's peak rate, or of its bytes at its peak
bandwidth, whichever is longer. No device reaches that. How near it comes is the efficiency: the least time over the
measured time, taken stage by stage from a roofline report (`bench roofline -o`), on the device of that report. The
same efficiency is then assumed for the card. It is a plan on paper until the card is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from unipic2_edge.engines.cards import Card
from unipic2_edge.engines.targets import Target

from .limits import Limits, card_limits
from .stages import Stage

#: What the model does not know.
LAUNCHES = "Left out: the launching of kernels and the host's own work. Stages of less than 1 ms a call take longer."
_GIGA = 1e9


@dataclass(frozen=True)
class Efficiency:
    """Least over measured time, 0…1.

    Attributes:
        overall: of the whole run.
        graphs: of single graphs; what is not here takes `overall`.
        source: where it was measured.
    """

    overall: float
    source: str
    graphs: dict[str, float] = field(default_factory=dict)

    def of(self, graph: str) -> float:
        """The efficiency that is assumed for a graph."""
        return self.graphs.get(graph, self.overall)


@dataclass(frozen=True)
class Term:
    """One stage's part of a prediction; seconds are those of one call."""

    stage: str
    calls: int
    compute_seconds: float
    memory_seconds: float
    efficiency: float

    @property
    def least(self) -> float:
        """Seconds of all calls at the card's limits."""
        return self.calls * max(self.compute_seconds, self.memory_seconds)

    @property
    def seconds(self) -> float:
        """Seconds of all calls, predicted."""
        return self.least / self.efficiency


@dataclass(frozen=True)
class Prediction:
    """One card's predicted time, or why there is none.

    Attributes:
        target: the card's kind.
        card: its name and memory.
        limits: its data sheet's.
        terms: what the prediction is the sum of.
        weight_bytes: of all graphs together.
        reason: why it cannot run there; None where it can.
    """

    target: str
    card: str
    limits: Limits
    terms: tuple[Term, ...]
    weight_bytes: int
    reason: str | None = None

    @property
    def seconds(self) -> float | None:
        """The predicted seconds of one run."""
        return None if self.reason else sum(term.seconds for term in self.terms)

    @property
    def least(self) -> float | None:
        """Seconds at the card's limits: no faster is possible."""
        return None if self.reason else sum(term.least for term in self.terms)


def calibrate(stages: Sequence[Mapping[str, object]], source: str) -> Efficiency:
    """The efficiency of a roofline report's stages, by measured limits where the report has them.

    Raises:
        KeyError, TypeError, ValueError: it is no roofline report.
    """
    least: dict[str, float] = {}
    taken: dict[str, float] = {}
    for stage in stages:
        graph, calls = str(stage["graph"]), _number(stage["calls"])
        limit = max(_number(stage["compute_seconds"]), _number(stage["memory_seconds"]))
        least[graph] = least.get(graph, 0.0) + calls * limit
        taken[graph] = taken.get(graph, 0.0) + calls * _number(stage["seconds"])
    overall = sum(least.values()) / sum(taken.values())
    # A stage that beats the limit only ran out of a cache: no card may be expected to be faster than its limits.
    return Efficiency(min(1.0, overall), source, {name: min(1.0, least[name] / taken[name]) for name in least})


def predict(
    target: Target, card: Card, stages: Sequence[Stage], precisions: Mapping[str, str], efficiency: Efficiency
) -> Prediction:
    """The time of one run on a card.

    Args:
        target: its kind.
        card: the card.
        stages: what runs; seconds are not needed.
        precisions: of each graph.
        efficiency: how near to the limits it is assumed to run.
    """
    limits = card_limits(card)
    weights = sum({stage.graph: stage.work.weights for stage in stages}.values())
    reason = _refusal(target, card, stages, precisions, limits, weights)
    terms = () if reason else tuple(_term(stage, limits, efficiency) for stage in stages)
    return Prediction(target.name, limits.device, limits, terms, weights, reason)


def _term(stage: Stage, limits: Limits, efficiency: Efficiency) -> Term:
    compute = limits.compute_seconds(stage.work.matrix) or 0.0
    memory = limits.memory_seconds(stage.work.least_bytes)
    return Term(stage.name, stage.calls, compute, memory, efficiency.of(stage.graph))


def _refusal(
    target: Target,
    card: Card,
    stages: Sequence[Stage],
    precisions: Mapping[str, str],
    limits: Limits,
    weights: int,
) -> str | None:
    for stage in stages:
        for name in (precisions[stage.graph], *stage.work.matrix):
            if name not in target.precisions:
                return f"{stage.graph} needs {name}, which {target.name} does not run"
        for name in limits.missing(stage.work.matrix):
            return f"no source gives this card's rate in {name}"
    if weights > card.memory * _GIGA:
        return f"weights of {weights / _GIGA:.1f} GB do not fit at once"
    return None


def prediction_record(found: Prediction) -> dict[str, object]:
    """JSON-ready; a predicted figure is named so."""
    return {
        "target": found.target,
        "card": found.card,
        "limits": found.limits.to_dict(),
        "predicted_seconds": found.seconds,
        "least_seconds": found.least,
        "weight_bytes": found.weight_bytes,
        "reason": found.reason,
        "terms": [
            {
                "stage": term.stage,
                "calls": term.calls,
                "compute_seconds": term.compute_seconds,
                "memory_seconds": term.memory_seconds,
                "efficiency": term.efficiency,
                "predicted_seconds": term.seconds,
            }
            for term in found.terms
        ],
    }


def prediction_lines(found: Prediction) -> list[str]:
    """The calculation, line by line."""
    head = f"{found.target}, {found.card}"
    if found.seconds is None or found.least is None:
        return [f"{head}: {found.reason}"]
    lines = [
        f"{head}: predicted {_time(found.seconds)} (at the card's limits {_time(found.least)}); {found.limits.source}"
    ]
    for term in found.terms:
        lines.append(
            f"    {term.stage}: {term.calls} × max({_time(term.compute_seconds)} compute, "
            f"{_time(term.memory_seconds)} memory) / {term.efficiency:.3g} = {_time(term.seconds)}"
        )
    return lines


def _time(seconds: float) -> str:
    return (
        f"{seconds:.3g} s"
        if seconds >= 1
        else f"{1e3 * seconds:.3g} ms"
        if seconds >= 1e-3
        else f"{1e6 * seconds:.3g} µs"
    )


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is no number")
    return float(value)
