"""The machine a number was measured on: it stands beside every number."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from unipic2_edge.runtime.device import find_gpus

from .sensors import gpu_sensors, nvml, sensors

_LIBRARIES = (
    "unipic2-edge", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx", "cuda-python",
    "torch", "diffusers", "transformers",
)  # fmt: skip


def machine() -> dict[str, object]:
    """Processor, GPUs, memory, system, Python and library versions, and what the sensors say now; no host name."""
    import psutil

    return {
        "processor": _processor(),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": [round(value, 2) for value in psutil.getloadavg()],
        "system": platform.system(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "libraries": {name: found for name in _LIBRARIES if (found := _version(name))},
        "sensors": sensors(),
        **_gpus(),
    }


def _gpus() -> dict[str, object]:
    """GPUs in a line each, and their sensors; nothing where there is none."""
    found = find_gpus()
    if not found:
        return {}
    with nvml() as library:
        told = {} if library is None else {str(gpu.index): gpu_sensors(library, gpu.index) for gpu in found}
    return {"gpus": [gpu.describe() for gpu in found], "gpu_sensors": told}


def _processor() -> str:
    """The processor's model name, with the vector extensions that decide its speed."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    fields: dict[str, str] = {}
    for line in info.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = set(fields.get("flags", "").split())
    extensions = [flag for flag in ("avx2", "avx512f", "amx_bf16") if flag in flags]
    return f"{fields.get('model name', platform.machine())} ({', '.join(extensions) or 'no AVX2'})"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
