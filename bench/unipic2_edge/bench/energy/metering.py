"""Energy of a piece of work: all meters sampled beside it, and read off at its end.

with metered(meters) as energy:
    work()
energy.joules
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from .meter import EnergyMeter, MeterError

_PERIOD = 0.05  # seconds between samples


@dataclass
class Energy:
    """What a piece of work took: joules by meter, seconds; `failed` says which meters stopped answering, and why."""

    joules: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> float | None:
        """Joules of all meters, which do not overlap; None where there is none, or one failed."""
        return sum(self.joules.values()) if self.joules and not self.failed else None


@contextmanager
def metered(meters: Sequence[EnergyMeter], period: float = _PERIOD) -> Iterator[Energy]:
    """Meter the block; the result is filled when it ends.

    Args:
        meters: that do not cover the same hardware twice.
        period: seconds between two samples.
    """
    energy, over = Energy(), threading.Event()
    _sample(meters, energy)
    before = {meter.name: meter.joules for meter in meters}
    start = time.perf_counter()
    thread = threading.Thread(target=_watch, args=(meters, energy, over, period), daemon=True)
    if meters:
        thread.start()
    try:
        yield energy
    finally:
        over.set()
        if meters:
            thread.join()
        _sample(meters, energy)
        energy.seconds = time.perf_counter() - start
        energy.joules = {
            meter.name: meter.joules - before[meter.name] for meter in meters if meter.name not in energy.failed
        }


def _watch(meters: Sequence[EnergyMeter], energy: Energy, over: threading.Event, period: float) -> None:
    while not over.wait(period):
        _sample(meters, energy)


def _sample(meters: Sequence[EnergyMeter], energy: Energy) -> None:
    for meter in meters:
        try:
            meter.sample()
        except MeterError as error:
            energy.failed[meter.name] = str(error)
