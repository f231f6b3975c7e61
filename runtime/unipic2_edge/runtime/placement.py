"""Placement: the device a bundle is served on, the engine of each graph, and why; decided before anything is opened."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from .bundle import Bundle, Manifest
from .device import Device, Wanted, find_gpus, parse_device, processor
from .engine import engine_origin, read_engine, read_target, stored_engines
from .errors import MissingDependencyError, RequestError
from .memory_plan import MemoryPlan, Need, plan_memory
from .picker import GPU_BACKENDS, Choice, Library, Refusal, pick, pick_openvino

logger = logging.getLogger(__name__)

#: Graphs for which GPUs have another one: there the language model's cache has one length and is written in place.
_ON_GPUS = {"language": "language_static"}
#: Graphs that run by turns, word after word: one must not go when the other comes.
_TOGETHER: dict[str, str] = {"language": "words", "language_static": "words", "lm_head": "words"}


@dataclass(frozen=True)
class Placement:
    """Where a bundle's graphs run.

    Attributes:
        device: the one they run on.
        provider: ONNX Runtime's, for graphs without a choice: "cpu" or "cuda".
        choices: the engines of graphs that TensorRT, TensorRT-RTX or OpenVINO runs, by graph; ONNX Runtime runs
            the others.
        reason: why this device.
    """

    device: Device
    provider: str
    reason: str
    choices: Mapping[str, Choice] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For people: the device and why, then the engine of each graph and why."""
        head = f"{self.device.describe()}: {self.reason}"
        lines = [head, *(f"  {graph}: {choice.reason}" for graph, choice in self.choices.items())]
        return lines if self.choices or self.device.kind == "gpu" else [*lines, "  every graph: onnxruntime"]

    def needs(self) -> list[Need]:
        """What each placed graph needs on the device, as its compiler reported."""
        return [
            Need(
                graph,
                choice.engine.weights_bytes or choice.engine.bytes,
                choice.engine.activation_bytes or 0,
                _TOGETHER.get(graph),
            )
            for graph, choice in self.choices.items()
        ]

    def turns(self, plan: MemoryPlan) -> dict[str, str]:
        """The graphs that take turns on the device, each with the name of those that it shares a turn with."""
        return {need.graph: need.together for need in self.needs() if need.graph in plan.swapped}

    @property
    def pictures(self) -> int | None:
        """The most pictures at once that the denoiser's engine takes, with guidance; None where it has no limit."""
        choice = self.choices.get("denoiser")
        shapes = None if choice is None else choice.engine.spec.profile.get("patches")
        return None if shapes is None else max(1, shapes.max[0] // 2)

    def memory(self, budget: int | None) -> MemoryPlan | None:
        """Which graphs stay on the GPU within a budget in bytes, by default its free memory; none elsewhere.

        Raises:
            RequestError: they do not fit even one after another.
        """
        available = budget if budget is not None else self.device.free_bytes
        if not self.choices or self.device.kind == "cpu" or available is None:
            return None
        return plan_memory(self.needs(), available)


def place(
    bundle: Bundle,
    device: str = "auto",
    fallback: bool = False,
    gpus: Callable[[], Iterable[Device]] = find_gpus,
    libraries: Callable[[], Mapping[str, Library]] | None = None,
) -> Placement:
    """Decide where a bundle runs.

    Args:
        bundle: the opened bundle.
        device: "auto" takes a GPU when the bundle has engines for GPUs, else the processor; "cpu"; "gpu" runs
            engines through TensorRT or TensorRT-RTX; "cuda" runs graphs through ONNX Runtime's CUDA provider.
        fallback: whether a GPU whose engines do not fit may be passed over for the processor.
        gpus: finds the GPUs.
        libraries: finds the backends.

    Raises:
        RequestError: no such device, or no engine fits it and no fallback is allowed.
        MissingDependencyError: its backend is not installed or does not load.
    """
    wanted = parse_device(device)
    if wanted.kind == "cpu":
        return _place_on_processor(bundle, "asked for", libraries)
    found = tuple(gpus())
    if wanted.kind == "cuda":
        return Placement(_gpu(found, wanted), "cuda", "asked for, through ONNX Runtime's CUDA provider")
    if wanted.kind == "auto" and (not found or not _has_plans(bundle)):
        reason = "no GPU was found" if not found else "the bundle has no engines for GPUs"
        return _place_on_processor(bundle, reason, libraries)
    placed = _place_on(bundle, _gpu(found, wanted), (libraries or find_libraries)())
    if isinstance(placed, Placement):
        return placed
    if not fallback:
        hint = "; --fallback serves it on the processor"
        raise _error(placed, hint)
    logger.warning("serving on the processor: %s (%s)", placed.problem, placed.mend)
    return _place_on_processor(bundle, f"no engine fits the GPU: {placed.problem}", libraries)


def served_graphs(manifest: Manifest, gpu: bool) -> tuple[str, ...]:
    """The graphs of a bundle that engines for GPUs, or for processors, are made of."""
    twins = {graph: twin for graph, twin in _ON_GPUS.items() if {graph, twin} <= set(manifest.graphs)}
    left = set(twins) if gpu else set(twins.values())
    return tuple(graph for graph in manifest.graphs if graph not in left)


def one_by_one(manifest: Manifest) -> dict[str, str]:
    """Every graph of a bundle with the name of its turn: the device holds one at a time, and the least there is."""
    return {graph: _TOGETHER.get(graph, graph) for graph in manifest.graphs}


def find_libraries() -> dict[str, Library]:
    """TensorRT-RTX and TensorRT as they are installed here."""
    return {name: _library(name) for name in GPU_BACKENDS}


def _library(name: str) -> Library:
    try:
        return Library(str(import_module(name).__version__))
    except ModuleNotFoundError:
        return Library(None)
    except (ImportError, OSError, AttributeError) as error:
        return Library(None, str(error).splitlines()[0])


def processor_libraries() -> dict[str, Library]:
    """OpenVINO as it is installed here; it is not loaded."""
    try:
        return {"openvino": Library(version("openvino"))}
    except PackageNotFoundError:
        return {"openvino": Library(None)}


def _has_plans(bundle: Bundle) -> bool:
    return any(engine.spec.backend in GPU_BACKENDS for engine in stored_engines(bundle))


def _gpu(found: tuple[Device, ...], wanted: Wanted) -> Device:
    if wanted.index >= len(found):
        count = f"this machine has {len(found)}" if found else "no NVIDIA GPU was found"
        raise RequestError(
            f"there is no GPU {wanted.index}: {count}", "see: unipic2-edge doctor; --device cpu needs none"
        )
    return found[wanted.index]


def _place_on(bundle: Bundle, device: Device, libraries: Mapping[str, Library]) -> Placement | Refusal:
    """Every graph on a GPU, or the first one's refusal."""
    engines, choices = list(stored_engines(bundle)), {}
    for graph in served_graphs(bundle.manifest, gpu=True):
        picked = pick(graph, engines, engine_origin(bundle, graph), device, libraries)
        if isinstance(picked, Refusal):
            return picked
        choices[graph] = picked
    return Placement(device, "cpu", "its engines fit", choices)


def _place_on_processor(
    bundle: Bundle, reason: str, libraries: Callable[[], Mapping[str, Library]] | None
) -> Placement:
    """Every graph on the processor: through OpenVINO where `build` found it faster, else through ONNX Runtime.

    Raises:
        BundleError: a record is damaged.
    """
    record = read_target(bundle, "cpu")
    choices: dict[str, Choice] = {}
    engines = [read_engine(bundle, name) for name in record.engines.values()] if record is not None else []
    for engine in (engine for engine in engines if engine.spec.backend == "openvino"):
        picked = pick_openvino(engine, (libraries or processor_libraries)().get("openvino", Library(None)))
        if isinstance(picked, Refusal):
            logger.warning("using the plain graphs through ONNX Runtime: %s (%s)", picked.problem, picked.mend)
            choices.clear()
            break
        choices[engine.spec.graph] = picked
    return Placement(processor(), "cpu", reason, choices)


def _error(refused: Refusal, hint: str) -> RequestError:
    kind = MissingDependencyError if "pip install" in refused.mend else RequestError
    return kind(refused.problem, refused.mend + hint)
