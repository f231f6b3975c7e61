"""The meters of this machine that can be read and concern a device; and why the others cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unipic2_edge.runtime.device import Device

from . import jetson, rapl
from .meter import EnergyMeter, MeterError
from .nvml import open_nvml


@dataclass(frozen=True)
class Meters:
    """What can be read, and what cannot, in a line each."""

    readable: tuple[EnergyMeter, ...]
    unreadable: tuple[str, ...]

    def record(self) -> dict[str, object]:
        """JSON-ready: who measured what, and who could not."""
        return {
            "meters": [{"name": meter.name, "scope": meter.scope} for meter in self.readable],
            "unreadable": list(self.unreadable),
        }


def find_meters(
    device: Device,
    powercap: Path = rapl.TREE,
    hwmon: Path = jetson.TREE,
    gpu: Callable[[int], EnergyMeter] = open_nvml,
) -> Meters:
    """A Jetson's rails cover everything; elsewhere a GPU that serves, and the processors.

    Args:
        device: where the pictures are made.
        powercap: Linux' tree of RAPL counters.
        hwmon: Linux' tree of power monitors.
        gpu: opens a GPU's meter.
    """
    openers: list[Callable[[], EnergyMeter]] = []
    rails = jetson.jetson_rails(hwmon)
    if rails:
        openers.append(lambda: jetson.JetsonMeter(rails))
    elif device.kind == "gpu":
        openers.append(lambda: gpu(device.index))
    zones = [] if rails else list(rapl.rapl_zones(powercap))
    openers += [lambda zone=zone: rapl.RaplMeter(zone) for zone in zones]  # type: ignore[misc]
    readable, unreadable = [], []
    for opener in openers:
        try:
            readable.append(opener())
        except MeterError as error:
            unreadable.append(str(error))
    if not rails and not zones:
        unreadable.append(f"no power monitor of a Jetson in {hwmon}, no RAPL counter in {powercap}")
    return Meters(tuple(readable), tuple(unreadable))
