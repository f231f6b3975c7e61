"""What a machine's sensors say when a report is written: clocks, temperatures, power mode and limits, peak memory.

Whatever cannot be read is left out: containers, virtual machines and users without rights see little of it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")
_WAIT = 5  # seconds for a command to answer


def sensors(status: Path = _STATUS) -> dict[str, object]:
    """Of the processor, and of the process that asks."""
    import psutil

    found: dict[str, object] = {}
    with suppress(OSError, NotImplementedError, AttributeError):
        frequency = psutil.cpu_freq()
        if frequency is not None:
            found["clock_mhz"] = {"now": round(frequency.current), "most": round(frequency.max)}
    with suppress(OSError, AttributeError):  # not every system has the function
        chips = psutil.sensors_temperatures()
        hottest = {name: max(entry.current for entry in entries) for name, entries in chips.items() if entries}
        found |= {"temperature_c": hottest} if hottest else {}
    peak = peak_memory(status)
    mode = power_mode()
    found |= {"peak_memory_gib": round(peak / 2**30, 3)} if peak is not None else {}
    return found | ({"power_mode": mode} if mode is not None else {})


def peak_memory(status: Path = _STATUS) -> int | None:
    """The most bytes that this process has held."""
    import psutil

    if status.exists():
        match = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii"), re.MULTILINE)
        return None if match is None else int(match[1]) * 1024
    peak = getattr(psutil.Process().memory_info(), "peak_wset", None)  # Windows
    return None if peak is None else int(peak)


def power_mode(find: Callable[[str], str | None] = shutil.which) -> str | None:
    """A Jetson's power mode, as `nvpmodel` names it."""
    command = find("nvpmodel")
    if command is None:
        return None
    with suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run([command, "-q"], capture_output=True, text=True, timeout=_WAIT, check=False).stdout
        match = re.search(r"NV Power Mode:\s*(\S+)", told)
        return None if match is None else match[1]
    return None


@contextmanager
def nvml() -> Iterator[Any]:
    """The module `pynvml`, initialised; None without it or without a driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # the package is not there, or raises its own class, which cannot be named then
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def gpu_sensors(library: Any, index: int) -> dict[str, object]:
    """A GPU's clocks, temperature, power limit and memory in use, as far as its driver tells.

    Args:
        library: the module `pynvml`, initialised.
        index: of the GPU.
    """
    handle = library.nvmlDeviceGetHandleByIndex(index)
    questions: dict[str, Callable[[], object]] = {
        "clock_mhz": lambda: {
            "now": library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_SM),
            "most": library.nvmlDeviceGetMaxClockInfo(handle, library.NVML_CLOCK_SM),
        },
        "memory_clock_mhz": lambda: {
            "now": library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_MEM),
            "most": library.nvmlDeviceGetMaxClockInfo(handle, library.NVML_CLOCK_MEM),
        },
        "temperature_c": lambda: library.nvmlDeviceGetTemperature(handle, library.NVML_TEMPERATURE_GPU),
        "power_limit_w": lambda: library.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3,
        "memory_used_gib": lambda: round(library.nvmlDeviceGetMemoryInfo(handle).used / 2**30, 3),
    }
    found = {}
    for name, ask in questions.items():
        with suppress(library.NVMLError):
            found[name] = ask()
    return found
