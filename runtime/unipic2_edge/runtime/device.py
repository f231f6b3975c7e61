"""The devices of this machine: its processor, and the GPUs that NVML or a Jetson's device tree tells of."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from .errors import RequestError
from .platforms import this_platform

logger = logging.getLogger(__name__)

Kind = Literal["cpu", "gpu"]
#: What a user can ask for; "gpu" and "cuda" may carry an index, as in "gpu:1".
DEVICES = ("auto", "cpu", "gpu", "cuda")
#: Device tree's name of a Jetson's chip → compute capability.
_JETSONS = {"tegra234": "8.7", "tegra264": "11.0"}
_DEVICE_TREE = Path("/proc/device-tree")
_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Device:
    """One device: memory in bytes, the driver's version, the compute capability ("8.9") of GPUs.

    A Jetson's memory is the system's: processor and GPU share it.
    """

    kind: Kind
    index: int
    name: str
    capability: str | None
    memory_bytes: int | None
    free_bytes: int | None
    driver: str | None
    platform: str

    def to_dict(self) -> dict[str, object]:
        """JSON-ready fields."""
        return asdict(self)

    def describe(self) -> str:
        """For people: name, compute capability, memory, driver."""
        parts = [self.name]
        if self.capability is not None:
            parts.append(f"compute capability {self.capability}")
        if self.memory_bytes is not None:
            parts.append(f"{self.memory_bytes / 1e9:.1f} GB")
        if self.driver is not None:
            parts.append(f"driver {self.driver}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Wanted:
    """A device as a user names it: one of `DEVICES`, and which GPU."""

    kind: str
    index: int = 0


def parse_device(text: str) -> Wanted:
    """Read a device: "auto", "cpu", "gpu", "gpu:1", "cuda" or "cuda:1".

    Raises:
        RequestError: it is none of these.
    """
    match = re.fullmatch(r"(auto|cpu)|(gpu|cuda)(?::(\d+))?", text)
    if match is None:
        raise RequestError(
            f"there is no device {text!r}", f"use one of {', '.join(DEVICES)}; gpu:1 names the second GPU"
        )
    return Wanted(match[1] or match[2], int(match[3] or 0))


def processor() -> Device:
    """The processor."""
    total, free = system_memory()
    return Device("cpu", 0, "processor", None, total, free, None, this_platform())


def find_gpus() -> tuple[Device, ...]:
    """Every NVIDIA GPU of this machine, in the driver's order."""
    return _from_nvml() or _from_device_tree(_DEVICE_TREE)


def system_memory(meminfo: Path = _MEMINFO) -> tuple[int | None, int | None]:
    """Bytes of memory this machine has, and that a process could have now, where the system tells (Linux)."""
    if not meminfo.exists():
        return None, None
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB", meminfo.read_text(encoding="ascii"), re.MULTILINE))
    total, free = (int(found[name]) * 1024 if name in found else None for name in ("MemTotal", "MemAvailable"))
    return total, free


def _from_nvml() -> tuple[Device, ...]:
    """What NVML lists; nothing without its Python package or without a driver."""
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        logger.info("no GPU through NVML: %s", error)
        return ()
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        return tuple(_nvml_device(pynvml, index, driver) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError as error:
        logger.warning("the driver does not answer: %s", error)
        return ()
    finally:
        pynvml.nvmlShutdown()


def _nvml_device(pynvml: Any, index: int, driver: str) -> Device:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        total, free = int(memory.total), int(memory.free)
    except pynvml.NVMLError:  # devices that share the system's memory have none to tell of
        known = system_memory()
        return Device(
            "gpu", index, _text(pynvml.nvmlDeviceGetName(handle)), f"{major}.{minor}", *known, driver, this_platform()
        )
    name = _text(pynvml.nvmlDeviceGetName(handle))
    return Device("gpu", index, name, f"{major}.{minor}", total, free, driver, this_platform())


def _text(value: str | bytes) -> str:
    """Older bindings answer in bytes."""
    return value.decode() if isinstance(value, bytes) else value


def _from_device_tree(tree: Path) -> tuple[Device, ...]:
    """A Jetson's GPU: the device tree names the module and its chip, and the memory is the system's."""
    try:
        model, compatible = ((tree / name).read_bytes() for name in ("model", "compatible"))
    except OSError:
        return ()
    capability = _jetson_capability(part.decode(errors="replace") for part in compatible.split(b"\0"))
    if capability is None:
        return ()
    name = model.rstrip(b"\0").decode(errors="replace")
    return (Device("gpu", 0, name, capability, *system_memory(), None, this_platform()),)


def _jetson_capability(names: Sequence[str] | Any) -> str | None:
    chips = (name.rpartition(",")[2] for name in names)
    return next((_JETSONS[chip] for chip in chips if chip in _JETSONS), None)
