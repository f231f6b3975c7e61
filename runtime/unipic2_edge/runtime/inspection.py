"""The work of `inspect` and `doctor`: what a bundle holds, how a picture was made, what this machine can do."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import msgspec

from .bundle import Bundle
from .cli import Outcome
from .engine import Engine, built_targets, read_engine, read_target
from .settings import read_settings

#: Library → (extra that brings it, what it is for).
_BACKENDS = {
    "tensorrt": ("tensorrt", "compiling and serving on Jetson and NVIDIA cards"),
    "openvino": ("openvino", "serving on Intel processors"),
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
            f"  {name:<15} {component.precision:<9} {component.parameters / 1e6:8.2f} M {size / 1e6:8.2f} MB  {graphs}"
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
    """Python, processor, memory, the libraries that load with their versions."""
    libraries = {name: _version(name) for name in _BACKENDS}
    memory, gpus = _memory(), _gpus()
    result: dict[str, object] = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "gpus": gpus,
        "libraries": libraries,
    }
    lines = [
        f"Python {platform.python_version()} on {platform.platform()}",
        f"{os.cpu_count()} cores" + (f", {memory / 2**30:.1f} GiB of memory" if memory else ""),
    ]
    lines += [f"  {gpu}" for gpu in gpus] or ["  no NVIDIA card seen"]
    for name, found in libraries.items():
        extra, use = _BACKENDS[name]
        state = found or f'not installed; pip install "unipic2-edge[{extra}]"'
        lines.append(f"  {name:<13} {state}  ({use})")
    ready = libraries["onnxruntime"] is not None
    lines.append(
        "this machine can serve bundles on its CPU" if ready else "no backend is installed that could serve a bundle"
    )
    return Outcome(result | {"can_serve": ready}, lines)


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


def _gpus() -> list[str]:
    """Name, memory and driver of every NVIDIA card that the driver's own tool lists."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in listed.splitlines() if line.strip()]


def _memory() -> int | None:
    """Bytes of physical memory, where the system tells without a library."""
    if sys.platform == "win32" or not hasattr(os, "sysconf"):
        return None
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
