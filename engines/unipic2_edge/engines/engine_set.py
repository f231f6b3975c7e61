"""The engine set: which engines a bundle needs for its targets, which cards share one, what is impossible.

TensorRT-RTX puts the code for several cards into one plan with one copy of the weights, as long as all of them
run the graph's precision: fp16, bf16, int8 and int4 plans serve every RTX card from 30 on, fp8 and nvfp4 plans
those that have the format. Compute capability 7.5 gets plans of its own: in a shared one it raises everyone's
activation memory (677 MB against 529 MB for the full-size denoiser).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from unipic2_edge.runtime.bundle import Bundle, Manifest
from unipic2_edge.runtime.engine import EngineSpec, Scalar, Shapes, engine_origin
from unipic2_edge.runtime.errors import RequestError
from unipic2_edge.runtime.onnx_session import import_onnxruntime
from unipic2_edge.runtime.picker import PROCESSOR_BACKENDS
from unipic2_edge.runtime.placement import served_graphs
from unipic2_edge.runtime.platforms import this_platform

from .cpu import cpu_settings
from .openvino import openvino_settings, openvino_version
from .sizes import Sizes, profile_of
from .targets import Target
from .tensorrt import import_tensorrt, tensorrt_settings

#: Precision → what comes nearest to it, the best first.
_NEAREST = {
    "float32": ("float16", "bfloat16"),
    "float16": ("bfloat16", "float32"),
    "bfloat16": ("float16", "float32"),
    "int8": ("fp8", "int4", "float16"),
    "fp8": ("int8", "int4", "float16"),
    "int4": ("int8", "fp8", "float16"),
    "nvfp4": ("int4", "fp8", "int8", "float16"),
}
#: Precision → the export recipe that gives it, where the names differ.
_RECIPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_ALONE = ("7.5",)


@dataclass(frozen=True)
class Options:
    """How engines are to be built.

    Attributes:
        sizes: the pictures they must serve; None where engines have no limits (processors).
        threads: of the cpu target.
        platform: what they will run on; None is this machine's.
        backend: instead of each target's preferred one.
        weight_streaming: lets a plan run with a part of its weights in host memory.
        inference_precision: what OpenVINO's products are computed in, "f32" or "bf16".
    """

    sizes: Sizes
    threads: int | None = None
    platform: str | None = None
    backend: str | None = None
    weight_streaming: bool = False
    inference_precision: str = "f32"


@dataclass(frozen=True)
class Job:
    """One engine of the set.

    Attributes:
        spec: what it depends on.
        targets: those that it serves.
        profile: the shapes it will run with.
        threads: it will run with; None is the backend's own choice.
        contested: whether the set has another engine for the same graph and targets; the faster one will serve.
    """

    spec: EngineSpec
    targets: tuple[str, ...]
    profile: dict[str, Shapes]
    threads: int | None = None
    contested: bool = False


def engine_set(bundle: Bundle, targets: Sequence[Target], options: Options) -> list[Job]:
    """The engines that a bundle needs for its targets, each shared by all that can share it.

    Processors get one of each backend that can serve them, unless one is asked for: `build` lets them compete.

    Raises:
        RequestError: a target does not run a component's precision, or a backend does not serve a target; the
            nearest possible one is named.
        MissingDependencyError: the backend is not installed.
    """
    for target in targets:
        check_target(bundle, target, options)
    jobs = []
    for graph, group in _wanted(bundle.manifest, targets, options):
        names, profile = tuple(target.name for target in group), profile_of(bundle.manifest, graph, options.sizes)
        backends = backends_of(bundle, group[0], options)
        for backend in backends:
            spec = _spec(bundle, graph, group, backend, options)
            jobs.append(Job(spec, names, profile, options.threads, len(backends) > 1))
    return jobs


def _wanted(manifest: Manifest, targets: Sequence[Target], options: Options) -> Iterator[tuple[str, Sequence[Target]]]:
    """Each graph with each group of targets that can share its engine, where they are served by that graph."""
    groups = list(sharing(targets, options))
    for graph in manifest.graphs:
        for group in groups:
            if graph in served_graphs(manifest, gpu=group[0].capability is not None):
                yield graph, group


def backends_of(bundle: Bundle, target: Target, options: Options) -> list[str]:
    """What compiles for a target: for cards their preferred backend, for processors each that runs the precisions.

    Those must be installed; only trying tells which is faster.

    Raises:
        RequestError: as `backend_of`.
    """
    preferred = backend_of(target, options)
    if options.backend is not None or target.capability is not None:
        return [preferred]
    precisions = {component.precision for component in bundle.manifest.components.values()}
    able = [name for name in target.backends if find_spec(name) and precisions <= set(target.precisions_of(name))]
    return able or [preferred]


def backend_of(target: Target, options: Options) -> str:
    """What compiles for a target: the first of its backends that is installed here.

    Raises:
        RequestError: the backend that was asked for does not serve it.
    """
    if options.backend is None:
        return next((backend for backend in target.backends if find_spec(backend)), target.backends[0])
    if options.backend not in target.backends:
        raise RequestError(
            f"{options.backend} does not serve {target.name}", f"use {' or '.join(target.backends)} for it"
        )
    return options.backend


def platform_of(target: Target, options: Options) -> str:
    """What a target's engines run on: as asked for, else this machine's platform if the target has it."""
    here = this_platform()
    return options.platform or (here if here in target.platforms else target.platforms[0])


def check_target(bundle: Bundle, target: Target, options: Options) -> None:
    """Refuse what cannot be, before work starts.

    Raises:
        RequestError: the target runs on another platform, is compiled for on the device itself, or does not run
            the precision of a component.
    """
    backend = backends_of(bundle, target, options)[0]
    _check_platform(target, backend, platform_of(target, options))
    for name, component in bundle.manifest.components.items():
        for precision in (component.precision, *component.formats):
            impossible = check_precision(precision, target, backend)
            if impossible is not None:
                raise RequestError(f"{name} is in {impossible.problem}", impossible.mend)


def check_precision(precision: str, target: Target, backend: str) -> RequestError | None:
    """Why a target does not run a precision, with the nearest that it runs; none when it does."""
    possible = target.precisions_of(backend)
    if precision in possible:
        return None
    nearest = nearest_precision(precision, possible)
    where = f"{target.name} (compute capability {target.capability})" if target.capability else target.name
    return RequestError(
        f"{precision}, which {where} does not run through {backend}",
        f"export the checkpoint with --recipe {_RECIPES.get(nearest, nearest)}, the nearest that it runs",
    )


def _check_platform(target: Target, backend: str, platform: str) -> None:
    """Engines of processors run anywhere; plans run where they were compiled, or on Windows from Linux."""
    if backend in PROCESSOR_BACKENDS:
        return
    if platform not in target.platforms:
        raise RequestError(
            f"{target.name} does not run on {platform}", f"give --platform {' or '.join(target.platforms)}"
        )
    here = this_platform()
    if platform != here and not (backend == "tensorrt_rtx" and platform.startswith("windows")):
        raise RequestError(
            f"{backend} compiles for {platform} on {platform} alone, and this is {here}",
            f"copy the bundle to such a machine and run `unipic2-edge build BUNDLE --target {target.name}` there",
        )


def nearest_precision(wanted: str, possible: Sequence[str]) -> str:
    """The possible precision that comes nearest to the wanted one."""
    return next((name for name in _NEAREST.get(wanted, ()) if name in possible), possible[0])


def sharing(targets: Sequence[Target], options: Options) -> list[list[Target]]:
    """Targets in groups that share engines, in the order given."""
    groups: dict[tuple[str, ...], list[Target]] = {}
    for target in targets:
        backend = backend_of(target, options)
        alone = backend != "tensorrt_rtx" or target.capability in _ALONE
        groups.setdefault((backend, target.name if alone else ""), []).append(target)
    return list(groups.values())


def _spec(bundle: Bundle, graph: str, group: Sequence[Target], backend: str, options: Options) -> EngineSpec:
    capabilities = {target.capability for target in group if target.capability is not None}
    version, settings = _backend(backend, options)
    on_processor = backend in PROCESSOR_BACKENDS
    return EngineSpec(
        graph=graph,
        compiled_from=engine_origin(bundle, graph),
        precision=bundle.manifest.components[bundle.graph(graph).component].label,
        backend=backend,
        backend_version=version,
        capabilities=tuple(sorted(capabilities, key=lambda text: [int(part) for part in text.split(".")])),
        platform="any" if on_processor else platform_of(group[0], options),
        profile={} if on_processor else profile_of(bundle.manifest, graph, options.sizes),
        settings=settings,
    )


def _backend(backend: str, options: Options) -> tuple[str, dict[str, Scalar]]:
    """A backend's version and the settings of its engines."""
    if backend == "onnxruntime":
        return str(import_onnxruntime().__version__), cpu_settings(options.threads)
    if backend == "openvino":
        return openvino_version(), openvino_settings(options.inference_precision)
    settings = tensorrt_settings(backend, options.weight_streaming)
    return str(import_tensorrt(backend).__version__), settings
