"""A GPU's own counter of energy, through NVML (Volta and newer; millijoules since the driver was loaded)."""

from __future__ import annotations

from typing import Any

from .meter import MeterError

_SCOPE = "the whole card, as its driver counts"


class NvmlMeter:
    """One GPU's counter.

    Args:
        library: the module `pynvml`, initialised.
        index: of the GPU.

    Raises:
        MeterError: the GPU has no such counter.
    """

    def __init__(self, library: Any, index: int) -> None:
        self.name, self.scope, self.joules = f"GPU {index}", _SCOPE, 0.0
        self._library, self._index = library, index
        self._last = self._read()

    def sample(self) -> None:
        """See `EnergyMeter.sample`."""
        now = self._read()
        self.joules += (now - self._last) / 1e3
        self._last = now

    def _read(self) -> int:
        try:
            handle = self._library.nvmlDeviceGetHandleByIndex(self._index)
            return int(self._library.nvmlDeviceGetTotalEnergyConsumption(handle))
        except self._library.NVMLError as error:
            raise MeterError(f"NVML tells no energy of GPU {self._index}: {error}") from error


def open_nvml(index: int) -> NvmlMeter:
    """The meter of a GPU; NVML then stays open until the process ends.

    Raises:
        MeterError: NVML is not here, or the GPU has no counter.
    """
    try:
        import pynvml
    except ImportError:
        raise MeterError("NVML is not here: nvidia-ml-py is not installed") from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise MeterError(f"NVML is not here: {error}") from error
    return NvmlMeter(pynvml, index)
