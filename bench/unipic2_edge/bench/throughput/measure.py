"""Loads by turns: in every round each load has one burst, in another order, with all meters of energy beside it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from unipic2_edge.runtime.device import Device, processor
from unipic2_edge.runtime.errors import UserError, WorkError
from unipic2_edge.runtime.pipeline import Pipeline

from ..energy.finding import Meters, find_meters
from ..energy.metering import Energy, metered
from ..identity import bundle_identity
from .load import Burst, Load, burst

Advance = Callable[[str], None]
_IDLE_SECONDS = 2.0


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
        device: where, see `Pipeline.load`.
        threads: CPU threads of all pipelines that work at once together.
        memory: of the device that each pipeline may use.
        rounds: bursts of each load.
        seconds: that a burst takes about, at least one batch of each pipeline.
    """

    device: str
    threads: int
    memory: str | None
    rounds: int
    seconds: float


@dataclass
class Loaded:
    """A load's bursts with their energy.

    Attributes:
        load: what was asked for.
        batches: of each pipeline in a burst.
        bursts: in the order of the rounds.
        refused: why there are none.
    """

    load: Load
    batches: int = 1
    bursts: list[tuple[Burst, Energy]] = field(default_factory=list)
    refused: str | None = None


@dataclass
class Prompts:
    """Numbers of prompts, none given twice."""

    _next: int = 0

    def take(self, count: int) -> int:
        """The first of so many numbers in a row."""
        first, self._next = self._next, self._next + count
        return first


@dataclass(frozen=True)
class Throughput:
    """All loads, who could be asked for energy, and the power of the machine at rest before it all."""

    loads: list[Loaded]
    meters: Meters
    idle_watts: dict[str, float]
    identities: dict[str, dict[str, object]]


def measure(
    folders: Mapping[str, Path], loads: Sequence[Load], settings: Settings, done: Advance = lambda name: None
) -> Throughput:
    """Open as many pipelines as the loads need, and measure.

    Args:
        folders: of the bundles, by label.
        loads: of these bundles.
        settings: how much is measured.
        done: called after every burst.

    Raises:
        UserError: a bundle cannot be opened, or no load can be run at all.
    """
    with ExitStack() as stack:
        opened: dict[tuple[str, int], list[Pipeline]] = {}
        for label, count in dict.fromkeys((load.point.bundle, load.concurrency) for load in loads):
            opened[label, count] = list(_pipelines(folders[label], count, settings, stack))
        meters = find_meters(_device(opened))
        idle = _idle(meters)
        found = [Loaded(load) for load in loads]
        prompts = Prompts()
        for one in found:
            _warm_up(one, opened[one.load.point.bundle, one.load.concurrency], settings, prompts)
            done(one.load.name)
        for turn in range(settings.rounds):
            start = turn % len(found)
            for one in [*found[start:], *found[:start]]:  # nobody always works in the same one's wake
                if one.refused is None:
                    _measure(one, opened[one.load.point.bundle, one.load.concurrency], meters, prompts)
                done(one.load.name)
        identities = {label: bundle_identity(pipelines[0]) for (label, _), pipelines in opened.items()}
    if all(one.refused for one in found):
        raise WorkError(found[0].refused or "nothing was measured", "see: unipic2-edge inspect BUNDLE")
    return Throughput(found, meters, idle, identities)


def _pipelines(folder: Path, count: int, settings: Settings, stack: ExitStack) -> Iterator[Pipeline]:
    """Pipelines that work at once: they share the threads."""
    for _ in range(count):
        pipeline = Pipeline.load(folder, settings.device, max(1, settings.threads // count), settings.memory)
        stack.callback(pipeline.close)
        yield pipeline


def _device(opened: Mapping[tuple[str, int], Sequence[Pipeline]]) -> Device:
    first = next(iter(opened.values()))[0]
    return processor() if first.placement is None else first.placement.device


def _idle(meters: Meters) -> dict[str, float]:
    """Watts of each meter while nothing is asked for."""
    if not meters.readable:
        return {}
    with metered(meters.readable) as energy:
        time.sleep(_IDLE_SECONDS)
    return {name: joules / energy.seconds for name, joules in energy.joules.items()}


def _warm_up(one: Loaded, pipelines: Sequence[Pipeline], settings: Settings, prompts: Prompts) -> None:
    """Two bursts of a batch: the first compiles and allocates, the second tells how many batches a burst has."""
    try:
        for _ in range(2):
            made = burst(pipelines, one.load, 1, prompts.take(one.load.batch * one.load.concurrency))
        one.batches = max(1, math.ceil(settings.seconds / made.seconds))
    except UserError as error:
        one.refused = str(error)


def _measure(one: Loaded, pipelines: Sequence[Pipeline], meters: Meters, prompts: Prompts) -> None:
    number = prompts.take(one.load.batch * one.load.concurrency * one.batches)
    with metered(meters.readable) as energy:
        made = burst(pipelines, one.load, one.batches, number)
    one.bursts.append((made, energy))
