"""Points by turns: in every round each point makes one run, in another order, until all have enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, groupby
from pathlib import Path

from unipic2_edge.runtime.errors import UserError, WorkError
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.runtime.placement import served_graphs

from ..identity import bundle_identity
from .point import Point
from .run import Opened, Run

Advance = Callable[[str], None]
#: However slow a point is, so many runs it makes.
LEAST_RUNS = 5


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
        device: where, see `Pipeline.load`.
        threads: CPU threads.
        warm_up: runs of each point before those that count; the first one is kept apart.
        runs: of each point.
        seconds: of runs after which a point has enough, if it has `LEAST_RUNS`.
        apart: whether bundles and memory plans follow each other instead of taking turns, since memory does not hold
            them side by side.
    """

    device: str
    threads: int
    warm_up: int
    runs: int
    seconds: float
    apart: bool


@dataclass
class Timed:
    """A point's runs.

    Attributes:
        point: what was timed.
        first: the point's very first run, in which a backend compiles and allocates for new shapes.
        runs: those that count, in the order of the rounds.
        refused: why there are none.
    """

    point: Point
    first: Run | None = None
    runs: list[Run] = field(default_factory=list)
    refused: str | None = None

    def enough(self, settings: Settings) -> bool:
        """Whether it needs no more runs."""
        spent = sum(run.total for run in self.runs)
        return len(self.runs) >= settings.runs or (len(self.runs) >= LEAST_RUNS and spent >= settings.seconds)


@dataclass(frozen=True)
class Load:
    """What opening a bundle took: seconds of the manifest and the placement, and of each graph, one by one."""

    bundle: str
    memory: str | None
    pipeline: float
    graphs: dict[str, float]
    identity: dict[str, object]


def measure(
    folders: Mapping[str, Path], points: Sequence[Point], settings: Settings, done: Advance = lambda name: None
) -> tuple[list[Load], list[Timed]]:
    """Open the bundles and time the points.

    Args:
        folders: of the bundles, by label.
        points: of these bundles.
        settings: how much is measured.
        done: called after every run.

    Raises:
        UserError: a bundle cannot be opened, or no point can be run at all.
    """
    loads: list[Load] = []
    timed: list[Timed] = []
    for group in _groups(points, settings.apart):
        opened: dict[tuple[str, str | None], Opened] = {}
        for place in dict.fromkeys((point.bundle, point.memory) for point in group):
            load, opened[place] = open_bundle(*place, folders[place[0]], settings)
            loads.append(load)
        timed += _time(opened, group, settings, done)
        for one in opened.values():
            one.inner.close()
    if all(made.refused for made in timed):
        raise WorkError(timed[0].refused or "nothing was timed", "see: unipic2-edge inspect BUNDLE")
    return loads, timed


def open_bundle(label: str, memory: str | None, folder: Path, settings: Settings) -> tuple[Load, Opened]:
    """Open a bundle and each of its graphs, and note the seconds.

    Raises:
        UserError: see `Pipeline.load`.
    """
    start = time.perf_counter()
    pipeline = Pipeline.load(folder, settings.device, settings.threads, memory)
    opening = time.perf_counter() - start
    gpu = pipeline.placement is not None and pipeline.placement.device.kind == "gpu"
    graphs = {}
    for graph in served_graphs(pipeline.manifest, gpu):
        start = time.perf_counter()
        _ = pipeline.sessions[graph]
        graphs[graph] = time.perf_counter() - start
    return Load(label, memory, opening, graphs, bundle_identity(pipeline)), Opened(pipeline)


def _groups(points: Sequence[Point], apart: bool) -> Iterator[list[Point]]:
    """What takes turns: all, or the points of one bundle and memory plan."""
    if not apart:
        yield list(points)
        return
    for _, group in groupby(points, key=lambda point: (point.bundle, point.memory)):
        yield list(group)


def _time(
    opened: Mapping[tuple[str, str | None], Opened], points: Sequence[Point], settings: Settings, done: Advance
) -> list[Timed]:
    found = [Timed(point) for point in points]
    for one in found:
        _warm_up(one, opened[one.point.bundle, one.point.memory], settings, done)
    turns = count()
    while waiting := [one for one in found if one.refused is None and not one.enough(settings)]:
        turn = next(turns) % len(waiting)
        for one in [*waiting[turn:], *waiting[:turn]]:  # nobody always runs in the same one's wake
            one.runs.append(opened[one.point.bundle, one.point.memory].run(one.point))
            done(one.point.name)
    return found


def _warm_up(one: Timed, opened: Opened, settings: Settings, done: Advance) -> None:
    """The first runs; a point that cannot be run says why, and the others go on."""
    try:
        for _ in range(settings.warm_up):
            run = opened.run(one.point)
            one.first = one.first or run
            done(one.point.name)
    except UserError as error:
        one.refused = str(error)
