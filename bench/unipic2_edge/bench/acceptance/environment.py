"""The step that looks around: driver, CUDA, the GPU's clocks, power, MIG and memory, versions, and `doctor`'s view."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from unipic2_edge.runtime.inspection import examine_machine

from .step import Job, Made

#: Distributions whose versions decide results.
_LIBRARIES = (
    "torch", "triton", "tensorrt-rtx", "tensorrt", "onnxruntime", "onnxruntime-gpu", "openvino", "cuda-python",
    "nvidia-ml-py", "diffusers", "transformers", "onnx", "numpy",
)  # fmt: skip


def examine(job: Job) -> Made:
    """Everything that stands beside the other steps' figures; what is not known is left out."""
    seen = examine_machine()
    results: dict[str, Any] = {"doctor": seen.result, "versions": _versions()}
    lines = list(seen.lines)
    index = job.setting.gpu
    if index is None:
        lines.append("no GPU: the CPU rows only")
        return Made(results=results | {"gpu": None}, lines=lines)
    results["gpu"] = {**_nvml(index), **_torch(index)}
    lines += [f"{name.replace('_', ' ')}: {value}" for name, value in results["gpu"].items()]
    return Made(results=results, lines=lines)


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _nvml(index: int) -> dict[str, Any]:
    """What NVML tells of a GPU; Jetsons and old drivers do not answer every question."""
    try:
        import pynvml
    except ImportError:
        return {}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        return {name: value for name, ask in _questions(pynvml, handle) if (value := _asked(pynvml, ask)) is not None}
    finally:
        pynvml.nvmlShutdown()


def _questions(nvml: Any, handle: Any) -> list[tuple[str, Any]]:
    """(what is asked, how) of one GPU; clocks in MHz, power in W, memory in bytes."""
    clocks = (("sm", nvml.NVML_CLOCK_SM), ("memory", nvml.NVML_CLOCK_MEM))
    return [
        ("name", lambda: _text(nvml.nvmlDeviceGetName(handle))),
        ("driver", lambda: _text(nvml.nvmlSystemGetDriverVersion())),
        ("cuda_of_the_driver", lambda: _cuda(nvml.nvmlSystemGetCudaDriverVersion_v2())),
        ("compute_capability", lambda: ".".join(map(str, nvml.nvmlDeviceGetCudaComputeCapability(handle)))),
        *((f"{name}_clock_mhz", lambda kind=kind: nvml.nvmlDeviceGetClockInfo(handle, kind)) for name, kind in clocks),
        *(
            (f"{name}_clock_max_mhz", lambda kind=kind: nvml.nvmlDeviceGetMaxClockInfo(handle, kind))
            for name, kind in clocks
        ),
        ("power_limit_w", lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000),
        ("power_limit_default_w", lambda: nvml.nvmlDeviceGetPowerManagementDefaultLimit(handle) / 1000),
        ("temperature_c", lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        ("mig", lambda: "on" if nvml.nvmlDeviceGetMigMode(handle)[0] else "off"),
        ("memory_bytes", lambda: int(nvml.nvmlDeviceGetMemoryInfo(handle).total)),
        ("free_memory_bytes", lambda: int(nvml.nvmlDeviceGetMemoryInfo(handle).free)),
    ]


def _asked(nvml: Any, ask: Any) -> Any:
    try:
        return ask()
    except (nvml.NVMLError, AttributeError):  # not supported by the card, or not known to this nvidia-ml-py
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _cuda(number: int) -> str:
    """12080 is 12.8."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _torch(index: int) -> dict[str, Any]:
    """What PyTorch says of the GPU; nothing without it."""
    try:
        import torch
    except ImportError:
        return {"pytorch": "not installed"}
    if not torch.cuda.is_available() or index >= torch.cuda.device_count():
        return {"pytorch": f"{torch.__version__}, which does not see the GPU"}
    properties = torch.cuda.get_device_properties(index)
    return {
        "pytorch": torch.__version__,
        "cuda_of_pytorch": torch.version.cuda,
        "multiprocessors": properties.multi_processor_count,
    }
