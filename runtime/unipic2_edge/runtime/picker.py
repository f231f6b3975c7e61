"""The picker: which of a bundle's engines runs a graph on a device, and why; or why none does, and what mends that.

A pure function over records: nothing is opened here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .device import Device
from .engine import CompiledFrom, Engine, EngineSpec

#: Backends that run plans on GPUs, the extra that brings each.
GPU_BACKENDS = {"tensorrt_rtx": "rtx", "tensorrt": "tensorrt"}
#: Backends that run graphs on processors, the extra that brings each.
PROCESSOR_BACKENDS = {"onnxruntime": "cpu", "openvino": "openvino"}
#: A plan's code for one capability that a card of another is said to run; nobody here has seen it.
SAID_TO_RUN = {"9.0": "8.0"}


@dataclass(frozen=True)
class Library:
    """A backend's Python module in this environment: its version, or why it does not load."""

    version: str | None
    problem: str | None = None


@dataclass(frozen=True)
class Choice:
    """The engine that runs a graph, and why."""

    engine: Engine
    reason: str


@dataclass(frozen=True)
class Refusal:
    """Why no engine runs a graph, and what mends it; `depth` is how many checks the nearest engine passed."""

    problem: str
    mend: str
    depth: int = 0


def pick(
    graph: str,
    engines: Sequence[Engine],
    origin: CompiledFrom,
    device: Device,
    libraries: Mapping[str, Library],
) -> Choice | Refusal:
    """The best engine for a graph on a GPU.

    Args:
        graph: its name.
        engines: the store's, of whatever graphs and backends.
        origin: what the engine must have been compiled from.
        device: the GPU.
        libraries: of each backend.
    """
    mine = [engine for engine in engines if engine.spec.graph == graph and engine.spec.backend in GPU_BACKENDS]
    if not mine:
        return Refusal(f"the bundle has no engine of {graph} for a GPU", _build(device))
    refusals, choices = [], []
    for engine in mine:
        refused = refusal(engine.spec, origin, device, libraries.get(engine.spec.backend, Library(None)))
        if refused is None:
            choices.append(engine)
        else:
            refusals.append(refused)
    if not choices:
        return max(refusals, key=lambda refused: refused.depth)
    best = max(choices, key=lambda engine: (device.capability in engine.spec.capabilities, engine.verified_ns))
    return Choice(best, _reason(best.spec, device))


def pick_openvino(engine: Engine, library: Library) -> Choice | Refusal:
    """Whether OpenVINO, as it is installed here, runs an engine of its own: a release reads what older ones wrote."""
    spec, running = engine.spec, library.version
    if running is None:
        return Refusal(
            f"the engine of {spec.graph} needs openvino, which is not installed",
            'install it with: pip install "unipic2-edge[openvino]"',
        )
    if _parts(running) < _parts(spec.backend_version):
        return Refusal(
            f"the engine of {spec.graph} was built by openvino {spec.backend_version}, and this is {running}",
            "update openvino, or build again: unipic2-edge build BUNDLE --target cpu",
        )
    products = spec.settings.get("inference_precision")
    return Choice(engine, f"{spec.precision}, openvino {running}, products in {products}")


def refusal(spec: EngineSpec, origin: CompiledFrom, device: Device, library: Library) -> Refusal | None:
    """Why an engine does not run on a device; none when it does."""
    checks = (_platform, _capability, _origin, _library, _version)
    for depth, check in enumerate(checks):
        refused = check(spec, origin, device, library)
        if refused is not None:
            return Refusal(*refused, depth)
    return None


def _platform(spec: EngineSpec, origin: CompiledFrom, device: Device, library: Library) -> tuple[str, str] | None:
    if spec.platform in ("any", device.platform):
        return None
    return (
        f"the engine of {spec.graph} was built for {spec.platform}, and this is {device.platform}",
        f"{_build(device)} --platform {device.platform}",
    )


def _capability(spec: EngineSpec, origin: CompiledFrom, device: Device, library: Library) -> tuple[str, str] | None:
    if device.capability is None:
        return f"{device.name} is no GPU", "use --device cpu"
    if device.capability in spec.capabilities or _untested(spec, device):
        return None
    return (
        f"the engine of {spec.graph} holds code for compute capability {', '.join(spec.capabilities)},"
        f" and {device.name} has {device.capability}",
        _build(device),
    )


def _origin(spec: EngineSpec, origin: CompiledFrom, device: Device, library: Library) -> tuple[str, str] | None:
    if spec.compiled_from == origin:
        return None
    return f"the engine of {spec.graph} was built from another graph or other weights", _build(device)


def _library(spec: EngineSpec, origin: CompiledFrom, device: Device, library: Library) -> tuple[str, str] | None:
    if library.version is not None:
        return None
    install = f'install it with: pip install "unipic2-edge[{GPU_BACKENDS[spec.backend]}]"'
    if library.problem is not None:
        return f"{spec.backend} does not load: {library.problem}", f"update the driver and CUDA, or {install}"
    return f"the engine of {spec.graph} needs {spec.backend}, which is not installed", install


def _version(spec: EngineSpec, origin: CompiledFrom, device: Device, library: Library) -> tuple[str, str] | None:
    """TensorRT-RTX plans run on the very release that built them, TensorRT's too unless they say otherwise."""
    running = library.version or ""
    if running == spec.backend_version:
        return None
    if spec.settings.get("version_compatible") and _parts(running) >= _parts(spec.backend_version):
        return None
    return (
        f"the engine of {spec.graph} was built by {spec.backend} {spec.backend_version}, and this is {running}",
        f"{_build(device)}, or pip install {spec.backend.replace('_', '-')}=={spec.backend_version}",
    )


def _untested(spec: EngineSpec, device: Device) -> bool:
    said = SAID_TO_RUN.get(device.capability or "")
    return spec.backend == "tensorrt_rtx" and said is not None and said in spec.capabilities


def _reason(spec: EngineSpec, device: Device) -> str:
    if device.capability in spec.capabilities:
        return f"{spec.precision}, {spec.backend} {spec.backend_version}, holds code for {device.capability}"
    return (
        f"{spec.precision}, {spec.backend} {spec.backend_version}: holds code for"
        f" {SAID_TO_RUN[device.capability or '']}, said to run on {device.capability} (untested)"
    )


def _parts(version: str) -> list[int]:
    return [int(part) if part.isdecimal() else 0 for part in version.split(".")]


def _build(device: Device) -> str:
    return "build it: unipic2-edge build BUNDLE --target auto"
