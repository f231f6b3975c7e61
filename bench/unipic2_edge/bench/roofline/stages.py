"""The stages of one run: each graph with its calls, its work, its seconds, and what bounds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unipic2_edge.export.work import Work

from .calls import Call, Extents, WorkTable
from .limits import Limits

#: Below this share of both limits, neither explains the time.
EXPLAINS = 0.3


@dataclass(frozen=True)
class Stage:
    """One graph with one set of shapes.

    Attributes:
        name: the graph's; with what tells them apart where it is called with several shapes.
        graph: the graph.
        extents: the values of its named dimensions.
        calls: how often it is called in one run.
        work: of one call.
        seconds: of one call, the median; None where nothing ran.
    """

    name: str
    graph: str
    extents: dict[str, int]
    calls: int
    work: Work
    seconds: float | None


@dataclass(frozen=True)
class Bound:
    """How near its limits a stage runs.

    Attributes:
        compute_seconds: of one call's matrix work at the limit; None where no limit is known.
        memory_seconds: of the bytes that must move (weights and border), at the limit.
        unfused_seconds: of the bytes that would move were nothing fused, at the limit.
        mfu: the achieved share of the computing limit.
        mbu: the achieved share of the memory limit, by the bytes that must move.
        by: "compute", "memory" or "overhead": the larger of the first two, if it explains the time at all.
    """

    compute_seconds: float | None
    memory_seconds: float
    unfused_seconds: float
    mfu: float | None
    mbu: float
    by: str


def stages_of(runs: Sequence[Sequence[Call]], works: WorkTable) -> list[Stage]:
    """The stages in the order in which they are first called; all runs make the same calls.

    Raises:
        BundleError: see `graph_work`.
    """
    groups: dict[tuple[str, Extents], list[float]] = {}
    for calls in runs:
        for call in calls:
            seconds = groups.setdefault((call.graph, call.extents), [])
            if call.seconds is not None:
                seconds.append(call.seconds)
    counts = {key: sum((call.graph, call.extents) == key for call in runs[0]) for key in groups}
    return [
        Stage(
            name=_name(key, list(groups)),
            graph=key[0],
            extents=dict(key[1]),
            calls=counts[key],
            work=works[key],
            seconds=float(np.median(found)) if found else None,
        )
        for key, found in groups.items()
    ]


def bound_of(work: Work, seconds: float, limits: Limits) -> Bound:
    """What bounds a call that took so long: the roofline model of Williams, Waterman and Patterson (CACM 52/4, 2009).

    A call cannot be faster than its matrix work at the peak rate, nor than its bytes at the peak bandwidth.
    """
    compute, memory = limits.compute_seconds(work.matrix), limits.memory_seconds(work.least_bytes)
    mfu, mbu = None if compute is None else compute / seconds, memory / seconds
    return Bound(
        compute_seconds=compute,
        memory_seconds=memory,
        unfused_seconds=limits.memory_seconds(work.most_bytes),
        mfu=mfu,
        mbu=mbu,
        by=_by(mfu or 0.0, mbu),
    )


def _by(mfu: float, mbu: float) -> str:
    if max(mfu, mbu) < EXPLAINS:
        return "overhead"
    return "compute" if mfu >= mbu else "memory"


def least_seconds(work: Work, limits: Limits) -> float | None:
    """What one call takes at the limits; None where a number format's limit is not known."""
    compute = limits.compute_seconds(work.matrix)
    return None if compute is None else max(compute, limits.memory_seconds(work.least_bytes))


def _name(key: tuple[str, Extents], keys: Sequence[tuple[str, Extents]]) -> str:
    """The graph, and the dimensions in which its calls differ."""
    same = [dict(extents) for graph, extents in keys if graph == key[0]]
    if len(same) == 1:
        return key[0]
    own = dict(key[1])
    differing = (name for name in own if any(other.get(name) != own[name] for other in same))
    return f"{key[0]} ({', '.join(f'{name} {own[name]}' for name in differing)})"


def formats_of(stages: Sequence[Stage]) -> list[str]:
    """The number formats of all stages' matrix work, in the order of their operations."""
    totals: dict[str, int] = {}
    for stage in stages:
        for name, operations in stage.work.matrix.items():
            totals[name] = totals.get(name, 0) + operations * stage.calls
    return sorted(totals, key=lambda name: -totals[name])
