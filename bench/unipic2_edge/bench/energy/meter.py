"""What every energy meter can do: it is sampled now and then, and knows the joules since it was made."""

from __future__ import annotations

from typing import Protocol


class MeterError(Exception):
    """A meter cannot be read; the message says why."""


class EnergyMeter(Protocol):
    """One meter.

    Attributes:
        name: unlike that of any other meter of the machine.
        scope: what its joules cover, for people.
        joules: since the meter was made, up to the last sample.
    """

    name: str
    scope: str
    joules: float

    def sample(self) -> None:
        """Read the hardware and add to `joules`; counters that wrap and powers that are summed want it often.

        Raises:
            MeterError: it cannot be read any more.
        """
        ...
