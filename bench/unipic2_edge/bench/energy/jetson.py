"""A Jetson's power monitors (INA3221; INA238 at the input of Thor), through Linux' hwmon tree, summed over time.

Sources: Linux, Documentation/hwmon/ina3221.rst and ina238.rst; NVIDIA Jetson Linux Developer Guide, "Platform Power and
Performance", for the rails' names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .meter import MeterError

TREE = Path("/sys/class/hwmon")
_CHIPS = ("ina3221", "ina238")
_CHANNELS = (1, 2, 3)
#: Rails that feed the whole module or board: where one is measured, the others are part of it.
_WHOLE = ("VDD_IN", "VIN")
_UNUSED = "NC"

#: Reads a rail's power in watts.
Rail = Callable[[], float]


class JetsonMeter:
    """The rails of a Jetson, as one meter; the power between two samples is taken as their mean.

    Args:
        rails: by name.
        clock: seconds.

    Raises:
        MeterError: a rail cannot be read.
    """

    def __init__(self, rails: dict[str, Rail], clock: Callable[[], float] = time.perf_counter) -> None:
        whole = [name for name in _WHOLE if name in rails]
        counted = whole[:1] or list(rails)
        self.name, self.scope, self.joules = "Jetson", f"{' + '.join(counted)} of the power monitor", 0.0
        self._rails, self._clock = [rails[name] for name in counted], clock
        self._last = self._clock(), self._watts()

    def sample(self) -> None:
        """See `EnergyMeter.sample`; every tenth of a second or oftener."""
        now, watts = self._clock(), self._watts()
        then, before = self._last
        self.joules += (now - then) * (watts + before) / 2
        self._last = now, watts

    def _watts(self) -> float:
        return sum(read() for read in self._rails)


def jetson_rails(tree: Path = TREE) -> dict[str, Rail]:
    """The rails that this machine's power monitors measure, by name; none on other machines."""
    return {name: rail for chip in sorted(tree.glob("hwmon*")) for name, rail in _rails_of(chip)}


def _rails_of(chip: Path) -> Iterator[tuple[str, Rail]]:
    try:
        kind = (chip / "name").read_text(encoding="ascii").strip()
    except OSError:
        return
    if kind == "ina238":
        yield "VIN", lambda: _number(chip / "power1_input") / 1e6
    elif kind in _CHIPS:
        for channel in _CHANNELS:
            volts, amperes, label = (chip / f"{name}{channel}_{part}" for name, part in _FILES)
            name = label.read_text(encoding="ascii").strip() if label.exists() else f"{chip.name}-{channel}"
            if volts.exists() and amperes.exists() and name != _UNUSED:
                yield name, lambda v=volts, a=amperes: _number(v) * _number(a) / 1e6  # type: ignore[misc]


_FILES = (("in", "input"), ("curr", "input"), ("in", "label"))  # mV, mA


def _number(path: Path) -> float:
    try:
        return float(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise MeterError(f"the power monitor's {path} cannot be read: {error}") from error
