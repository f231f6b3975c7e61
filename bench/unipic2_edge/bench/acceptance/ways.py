"""The ways a bundle is served in an acceptance run: a backend and an export recipe each; how each is opened."""

from __future__ import annotations

from dataclasses import dataclass

from unipic2_edge.engines.targets import TARGETS, Target, target_of_capability
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.device import Device, find_gpus, processor
from unipic2_edge.runtime.engine import engine_origin, stored_engines
from unipic2_edge.runtime.opening import open_pool
from unipic2_edge.runtime.picker import GPU_BACKENDS, SAID_TO_RUN, Refusal, pick, pick_openvino
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.runtime.placement import Placement, find_libraries, processor_libraries, served_graphs
from unipic2_edge.runtime.pool import SessionPool

from .step import Setting, SkippedError

#: Backends whose engines are compiled before they run.
COMPILED = (*GPU_BACKENDS, "openvino")
#: Backend → the modules that it needs.
PACKAGES = {
    "tensorrt_rtx": ("tensorrt_rtx", "cuda"),
    "tensorrt": ("tensorrt", "cuda"),
    "cuda": ("onnxruntime",),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
}


@dataclass(frozen=True)
class Way:
    """A backend ("cuda" is ONNX Runtime's CUDA provider) and a recipe's name."""

    backend: str
    recipe: str

    @property
    def name(self) -> str:
        """For steps and tables."""
        return f"{self.backend}-{self.recipe}"

    @property
    def packages(self) -> tuple[str, ...]:
        """The modules that it needs."""
        return PACKAGES[self.backend]


def small_ways(setting: Setting) -> list[Way]:
    """What the small model is served by, the processor first: the others are held against it."""
    first = Way("onnxruntime", "fp32")
    if setting.gpu is None:
        return [first, Way("openvino", "fp32")]
    recipes = ("fp32", setting.half)
    return [first, *(Way(backend, recipe) for backend in (*GPU_BACKENDS, "cuda") for recipe in recipes)]


def large_ways(setting: Setting) -> list[Way]:
    """What the large denoiser is timed on: every recipe is tried, and a card that lacks a format says so."""
    if setting.gpu is None:
        return [Way("onnxruntime", "fp32"), Way("onnxruntime", "cpu"), Way("openvino", "fp32")]
    recipes = (setting.half, "fp8", "int8", "int4", "nvfp4")
    return [*(Way(backend, recipe) for backend in GPU_BACKENDS for recipe in recipes), Way("cuda", "fp16")]


def device_of(setting: Setting) -> Device:
    """The device that is tried.

    Raises:
        SkippedError: the GPU is not there any more.
    """
    if setting.gpu is None:
        return processor()
    found = find_gpus()
    if setting.gpu >= len(found):
        raise SkippedError(f"there is no GPU {setting.gpu} now")
    return found[setting.gpu]


def target_for(setting: Setting, backend: str) -> Target:
    """What a backend compiles for on this device.

    Cards that TensorRT-RTX has no code for, and that are said to run another's (H100: A100's), are tried with that.

    Raises:
        SkippedError: the backend serves no such device.
    """
    if setting.gpu is None:
        return TARGETS["cpu"]
    capability = setting.capability or ""
    stand_in = SAID_TO_RUN.get(capability, "")
    for known in (target_of_capability(capability), target_of_capability(stand_in)):
        if known is not None and backend in known.backends:
            return known
    raise SkippedError(f"unsupported GPU: {backend} does not serve compute capability {capability}")


def placed(setting: Setting, bundle: Bundle, backend: str) -> Placement:
    """A bundle on the device through one backend.

    Raises:
        SkippedError: an engine or the library does not fit the device; the reason is the picker's.
    """
    device = device_of(setting)
    if backend in ("onnxruntime", "cuda"):
        index = device if backend == "cuda" else processor()
        return Placement(index, "cuda" if backend == "cuda" else "cpu", "asked for")
    engines = [engine for engine in stored_engines(bundle) if engine.spec.backend == backend]
    choices = {}
    for graph in served_graphs(bundle.manifest, gpu=device.kind == "gpu"):
        if backend == "openvino":
            own = next((engine for engine in engines if engine.spec.graph == graph), None)
            chosen = (
                Refusal(f"there is no OpenVINO engine of {graph}", "")
                if own is None
                else pick_openvino(own, processor_libraries()["openvino"])
            )
        else:
            chosen = pick(graph, engines, engine_origin(bundle, graph), device, find_libraries())
        if isinstance(chosen, Refusal):
            raise SkippedError(f"unsupported here: {chosen.problem}")
        choices[graph] = chosen
    return Placement(device, "cpu", "asked for", choices)


def open_sessions(setting: Setting, bundle: Bundle, backend: str) -> SessionPool:
    """The sessions of a bundle through one backend.

    Raises:
        SkippedError: see `placed`.
        RequestError: the graphs do not fit the device's memory.
    """
    return open_pool(bundle, placed(setting, bundle, backend), setting.threads, None)


def open_pipeline(setting: Setting, bundle: Bundle, backend: str) -> Pipeline:
    """A pipeline through one backend; raises as `open_sessions`."""
    placement = placed(setting, bundle, backend)
    return Pipeline(bundle, open_pool(bundle, placement, setting.threads, None), placement)
