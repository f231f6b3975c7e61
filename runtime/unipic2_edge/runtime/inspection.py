"""The work of `inspect` and `doctor`: what a bundle holds, how a picture was made, what this machine can do."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import msgspec

from .bundle import Bundle
from .cli import Outcome
from .device import Device, find_gpus, processor
from .engine import Engine, built_targets, read_engine, read_target
from .picker import GPU_BACKENDS, PROCESSOR_BACKENDS
from .settings import read_settings

#: Library → (extra that brings it, what it is for).
_BACKENDS = {
    "tensorrt": ("tensorrt", "compiling and serving on Jetson and NVIDIA cards"),
    "openvino": ("openvino", "serving on CPUs, where a build finds it faster"),
    "onnxruntime": ("cpu", "serving on CPUs"),
    "tensorrt_rtx": ("rtx", "compiling for RTX cards"),
    "torch": ("export", "exporting and training"),
    "diffusers": ("export", "exporting and training"),
    "accelerate": ("train", "training"),
    "scipy": ("bench", "measuring quality"),
}


def inspect_bundle(folder: Path, hashes: bool) -> Outcome:
    """A bundle's components, graphs and engines; with `hashes` every file is checked.

    Raises:
        BundleError: not a bundle, or (with `hashes`) a file is damaged.
    """
    bundle = Bundle(folder)
    manifest, space = bundle.manifest, bundle.manifest.latents
    if hashes:
        for relative in manifest.files:
            bundle.path(relative)
    total = sum(entry.bytes for entry in manifest.files.values())
    lines = [
        f"{folder}: {manifest.variant} bundle of {manifest.name}, recipe {manifest.recipe}, {total / 1e6:.1f} MB",
        f"source   {manifest.source.name} sha256 {manifest.source.sha256[:16]}…",
        f"latents  {space.channels} channels, ÷{space.factor}, patches of {space.patch_size}",
    ]
    for name, component in manifest.components.items():
        graphs = ", ".join(graph for graph, spec in manifest.graphs.items() if spec.component == name)
        size = manifest.files[component.weights].bytes
        lines.append(
            f"  {name:<15} {component.label:<9} {component.parameters / 1e6:8.2f} M {size / 1e6:8.2f} MB  {graphs}"
        )
    for task, default in manifest.defaults.items():
        lines.append(
            f"{task:<8} {default.width}x{default.height}, {default.num_inference_steps} steps, "
            f"guidance {default.guidance_scale:g}"
        )
    targets = built_targets(bundle)
    for target in targets:
        lines.append(_engines_line(target, _engines_of(bundle, target)))
    if not targets:
        lines.append("engines  none (unipic2-edge build BUNDLE --target cpu makes start-up faster)")
    if hashes:
        lines.append(f"hashes   all {len(manifest.files)} files are as the manifest says")
    result: dict[str, object] = {
        "manifest": msgspec.to_builtins(manifest),
        "engines": targets,
        "hashes_checked": hashes,
    }
    return Outcome(result, lines)


def _engines_of(bundle: Bundle, target: str) -> list[Engine]:
    record = read_target(bundle, target)
    return [] if record is None else [read_engine(bundle, name) for name in record.engines.values()]


def _engines_line(target: str, engines: list[Engine]) -> str:
    made = sorted({f"{engine.spec.backend} {engine.spec.backend_version}" for engine in engines})
    size = sum(engine.bytes for engine in engines)
    return f"engines  {target}: {len(engines)} graphs, {size / 1e6:.1f} MB, {', '.join(made)}"


def inspect_picture(path: Path) -> Outcome:
    """The settings a picture carries.

    Raises:
        ImageError: it is no picture, or carries none.
    """
    settings = msgspec.to_builtins(read_settings(path))
    return Outcome({"settings": settings}, [f"{name:<20} {value}" for name, value in settings.items()])


def examine_machine() -> Outcome:
    """Python, processor, memory, GPUs, the libraries that load with their versions, and what can serve bundles."""
    libraries = {name: _version(name) for name in _BACKENDS}
    gpus, cpu = find_gpus(), processor()
    result: dict[str, object] = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "platform": cpu.platform,
        "cores": os.cpu_count(),
        "memory_bytes": cpu.memory_bytes,
        "free_memory_bytes": cpu.free_bytes,
        "gpus": [gpu.to_dict() for gpu in gpus],
        "libraries": libraries,
    }
    lines = [f"Python {platform.python_version()} on {platform.platform()}", _memory_line(cpu)]
    lines += [f"  GPU {gpu.index}: {gpu.describe()}" for gpu in gpus] or ["  no NVIDIA GPU seen"]
    for name, found in libraries.items():
        extra, use = _BACKENDS[name]
        state = found or f'not installed; pip install "unipic2-edge[{extra}]"'
        lines.append(f"  {name:<13} {state}  ({use})")
    if cpu.free_bytes is not None:
        # Two copies of the weights beside a floor, see engines/: `build --dry-run` has the figures of a bundle.
        lines.append(f"plans of graphs with up to {cpu.free_bytes / 2e9:.1f} GB of weights can be compiled now")
    serving = _serving(gpus, libraries)
    lines.append(
        f"this machine can serve bundles {serving}" if serving else "nothing is installed that could serve a bundle"
    )
    return Outcome(result | {"can_serve": bool(serving)}, lines)


def _memory_line(cpu: Device) -> str:
    if cpu.memory_bytes is None or cpu.free_bytes is None:
        return f"{os.cpu_count()} cores"
    return f"{os.cpu_count()} cores, {cpu.memory_bytes / 1e9:.1f} GB of memory, {cpu.free_bytes / 1e9:.1f} GB free"


def _serving(gpus: Sequence[Device], libraries: Mapping[str, str | None]) -> str:
    """Where bundles can be served: "on its GPU through …, on its processor"."""
    ways = [f"on its GPU through {name}" for name in GPU_BACKENDS if gpus and libraries.get(name)]
    ways += ["on its processor"] if any(libraries.get(name) for name in PROCESSOR_BACKENDS) else []
    return ", ".join(ways)


def _version(name: str) -> str | None:
    """A library's version if it is installed and loads; heavy ones are looked up without importing them."""
    if find_spec(name) is None:
        return None
    if name in ("torch", "diffusers", "accelerate", "scipy"):
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version(name)
        except PackageNotFoundError:
            return None
    try:
        return str(import_module(name).__version__)
    except (ImportError, OSError) as error:
        return f"does not load: {str(error).splitlines()[0]}"
