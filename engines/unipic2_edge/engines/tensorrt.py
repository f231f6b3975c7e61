"""The compiler of GPU targets: TensorRT and TensorRT-RTX, two libraries with one Python API.

TensorRT-RTX compiles for cards that are not in the machine, and needs none in it; TensorRT compiles on the
device it compiles for. Networks are strongly typed: every tensor keeps the type that export gave it.
"""

from __future__ import annotations

import logging
import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.engine import EngineSpec, Scalar
from unipic2_edge.runtime.errors import MissingDependencyError, WorkError

from .compiler import Compiled, Progress
from .weights import graph_weights

logger = logging.getLogger(__name__)

_EXTRAS = {"tensorrt_rtx": "rtx", "tensorrt": "tensorrt"}
_REPORTED = re.compile(r"^Total (Weights|Activation) Memory: (\d+) bytes")


def import_tensorrt(backend: str) -> Any:
    """The module `tensorrt_rtx` or `tensorrt`.

    Raises:
        MissingDependencyError: not installed, or its libraries do not load.
    """
    try:
        return import_module(backend)
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"{backend} cannot be loaded: {str(error).splitlines()[0]}",
            f'install it with: pip install "unipic2-edge[{_EXTRAS[backend]}]"'
            + ("; on a Jetson it comes with JetPack" if backend == "tensorrt" else ""),
        ) from error


def tensorrt_settings(backend: str, weight_streaming: bool = False) -> dict[str, Scalar]:
    """What a plan is compiled with."""
    settings: dict[str, Scalar] = {"strongly_typed": True, "weight_streaming": weight_streaming}
    return settings if backend == "tensorrt_rtx" else settings | {"version_compatible": False}


class TensorRTCompiler:
    """Compiles plans, in a process of its own: a compiler that runs out of memory takes nothing else along."""

    suffix = ".plan"
    isolated = True

    def compile(self, bundle: Bundle, spec: EngineSpec, output: Path, progress: Progress) -> Compiled:
        """Compile one graph (see `Compiler.compile`)."""
        library = import_tensorrt(spec.backend)
        log = _log(library)
        builder = library.Builder(log)
        network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        with _mapped(bundle.weights(spec.graph)) as weights:
            _parse(library, network, log, bundle, spec.graph, weights)
            config = _config(library, builder, network, spec)
            config.progress_monitor = _monitor(library, weights, progress)
            plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise WorkError(f"{spec.backend} could not compile {spec.graph}: {log.complaint()}", _mend(log.complaint()))
        output.write_bytes(plan)
        return Compiled(log.reported.get("Weights"), log.reported.get("Activation"))


class _Mapped:
    """A weights file mapped into memory; its pages can be let go at any time and come back when they are read."""

    def __init__(self, view: mmap.mmap) -> None:
        self._view = view
        self.address = int(np.frombuffer(view, dtype=np.uint8).ctypes.data)

    def release(self) -> None:
        """Give the pages that were read back to the system (where it can be told to)."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._view.madvise(mmap.MADV_DONTNEED)


@contextmanager
def _mapped(path: Path) -> Iterator[_Mapped]:
    """Map a file for as long as parser and builder read from it; arrays over it die before it is closed."""
    with path.open("rb") as stream:
        yield _Mapped(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))


def _parse(library: Any, network: Any, log: Any, bundle: Bundle, graph: str, weights: _Mapped) -> None:
    """Fill the network from the graph; its weights are pointers into the mapped file.

    Libraries that cannot be given pointers (TensorRT before 10.7) map the file themselves.
    """
    parser = library.OnnxParser(network, log)
    model = bundle.read(bundle.graph(graph).file)
    if hasattr(parser, "load_initializer"):
        parsed = parser.load_model_proto(model)
        for name, tensor in graph_weights(bundle, graph).items():
            parsed = parsed and parser.load_initializer(name, weights.address + tensor.offset, tensor.length)
        parsed = parsed and parser.parse_model_proto()
    else:
        parsed = parser.parse(model, str(bundle.weights(graph).with_name(f"{graph}.onnx")))
    if not parsed:
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        raise WorkError(
            f"{library.__name__} cannot read the graph {graph}: {_readable(errors) or log.complaint()}",
            "update the library, or export the checkpoint with another recipe",
        )


def _readable(errors: list[Any]) -> str:
    """The first parser error in one line: what, in which operator."""
    if not errors:
        return ""
    first = errors[0]
    operator = f" (operator {first.node_operator()} {first.node_name()})" if hasattr(first, "node_operator") else ""
    return _one_line(first.desc()) + operator


def _config(library: Any, builder: Any, network: Any, spec: EngineSpec) -> Any:
    """Compute capabilities, platform, flags and the one optimisation profile."""
    config = builder.create_builder_config()
    if spec.backend == "tensorrt_rtx":
        config.num_compute_capabilities = len(spec.capabilities)
        for index, capability in enumerate(spec.capabilities):
            name = f"SM{capability.replace('.', '')}"
            config.set_compute_capability(getattr(library.ComputeCapability, name), index)
        if spec.platform.startswith("windows"):
            config.runtime_platform = library.RuntimePlatform.WINDOWS_AMD64
    for flag in ("WEIGHT_STREAMING", "VERSION_COMPATIBLE"):
        if spec.settings.get(flag.lower()):
            config.set_flag(getattr(library.BuilderFlag, flag))
    if spec.profile:
        profile = builder.create_optimization_profile()
        for name, shapes in spec.profile.items():
            profile.set_shape(name, shapes.min, shapes.opt, shapes.max)
        config.add_optimization_profile(profile)
    return config


def _log(library: Any) -> Any:
    """A logger for the library: what it says goes to our log, its errors and memory figures are kept."""

    class Log(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.errors: list[str] = []
            self.reported: dict[str, int] = {}

        def log(self, severity: Any, message: str) -> None:
            figure = _REPORTED.match(message)
            if figure:
                self.reported[figure[1]] = int(figure[2])
            if severity <= library.ILogger.ERROR:
                self.errors.append(_one_line(message))
            logger.log(logging.DEBUG if severity > library.ILogger.WARNING else logging.INFO, message)

        def complaint(self) -> str:
            return self.errors[0] if self.errors else "it gives no reason"

    return Log()


def _monitor(library: Any, weights: _Mapped, progress: Progress) -> Any:
    """A progress monitor: reports the outermost phases, and lets the weights' pages go as the build proceeds."""

    class Monitor(library.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.seen = 0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self.steps[phase_name] = max(num_steps, 1)
                progress(phase_name, 0.0)
            weights.release()

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.steps:
                progress(phase_name, min(1.0, (step + 1) / self.steps[phase_name]))
            self.seen += 1
            if self.seen % 50 == 0:
                weights.release()
            return True

        def phase_finish(self, phase_name: str) -> None:
            if phase_name in self.steps:
                progress(phase_name, 1.0)
            weights.release()

    return Monitor()


def _mend(complaint: str) -> str:
    """What a user can do about a compiler's complaint."""
    if "datatype" in complaint or "not supported" in complaint:
        return "see `unipic2-edge targets`: export with a recipe that the target runs"
    return "free some memory, ask for smaller sizes (--max), or update the library"


def _one_line(message: str) -> str:
    return " ".join(message.split())[:400]
