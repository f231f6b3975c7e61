"""What a device tells of itself while it works: joules and bytes, from NVML or, on processors, from RAPL."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..device import Device

logger = logging.getLogger(__name__)

Reading = Callable[[], float]
#: Linux' counters of a processor's packages, in microjoules; newer kernels let only root read them.
_RAPL = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Meter:
    """A device's readings; None where it has none, or does not let this process see them.

    Attributes:
        joules: since the driver was loaded (NVML), or as the counter stands (RAPL, which wraps around).
        used_bytes: of device memory now, by every process; a processor's is the system's, and left out.
    """

    joules: Reading | None = None
    used_bytes: Reading | None = None


def meter_of(device: Device) -> Meter:
    """The readings that a device has."""
    return _of_gpu(device.index) if device.kind == "gpu" else Meter(joules=_of_packages(_RAPL))


def _of_gpu(index: int) -> Meter:
    """NVML's; nothing on a Jetson, whose driver has none of it."""
    try:
        import pynvml
    except ImportError:
        return Meter()
    try:
        pynvml.nvmlInit()
        card = pynvml.nvmlDeviceGetHandleByIndex(index)
    except pynvml.NVMLError as error:
        logger.info("no readings through NVML: %s", error)
        return Meter()
    return Meter(
        _works(pynvml.NVMLError, lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(card) / 1e3),  # in millijoules
        _works(pynvml.NVMLError, lambda: float(pynvml.nvmlDeviceGetMemoryInfo(card).used)),
    )


def _of_packages(folder: Path) -> Reading | None:
    """The sum over a processor's packages ("intel-rapl:0", …, AMD's as well); their parts are in them already."""
    files = [
        path / "energy_uj"
        for path in sorted(folder.glob("intel-rapl:*"))
        if path.name.count(":") == 1 and (path / "energy_uj").exists()
    ]
    return (
        _works(OSError, lambda: sum(int(path.read_text(encoding="ascii")) for path in files) / 1e6) if files else None
    )


def _works(refusal: Any, reading: Reading) -> Reading | None:
    """The reading, if a first one succeeds; not a number when a later one does not."""

    def guarded() -> float:
        try:
            return reading()
        except refusal:
            return math.nan

    try:
        reading()
    except refusal as error:
        logger.info("a reading is refused: %s", error)
        return None
    return guarded
