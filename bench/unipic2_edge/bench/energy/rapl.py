"""A processor's counters of energy, through Linux' powercap tree (RAPL: microjoules that wrap around).

Source: Linux, Documentation/power/powercap/powercap.rst. Processors of Intel and AMD are both under `intel-rapl`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .meter import MeterError

TREE = Path("/sys/class/powercap")
#: A package's zone holds its cores; memory has a zone of its own inside the package's that is not part of it.
_PACKAGE, _MEMORY = "package", "dram"


class RaplMeter:
    """One zone.

    Args:
        zone: its folder, with `name`, `energy_uj` and `max_energy_range_uj`.

    Raises:
        MeterError: it cannot be read.
    """

    def __init__(self, zone: Path) -> None:
        self._counter = zone / "energy_uj"
        kind, self._range = _text(zone / "name"), int(_text(zone / "max_energy_range_uj"))
        inside = f" of {_text(zone.parent / 'name')}" if kind == _MEMORY and (zone.parent / "name").exists() else ""
        self.name, self.joules = f"RAPL {kind}{inside}", 0.0
        self.scope = "memory" if kind == _MEMORY else "the processor's package"
        self._last = int(_text(self._counter))

    def sample(self) -> None:
        """See `EnergyMeter.sample`; at least once per turn of the counter, minutes under full load."""
        now = int(_text(self._counter))
        turned = self._range if now < self._last else 0
        self.joules += (now - self._last + turned) / 1e6
        self._last = now


def rapl_zones(tree: Path = TREE) -> Iterator[Path]:
    """The zones of packages and of their memory."""
    for zone in sorted(tree.glob("intel-rapl:*")):
        kind = _text(zone / "name") if (zone / "name").exists() else ""
        if kind.startswith(_PACKAGE) or kind == _MEMORY:
            yield zone


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except PermissionError:
        raise MeterError(f"RAPL: {path} may be read by root alone") from None
    except OSError as error:
        raise MeterError(f"RAPL: {path} cannot be read: {error.strerror}") from error
