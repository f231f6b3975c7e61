"""The adapter of TensorRT and TensorRT-RTX, which share one Python API: a plan, opened on a GPU.

The plan's bytes are hashed before they are read as an engine, and host code in them stays disallowed. Device
buffers and pinned copies are made once for each shape, activations of all graphs share one arena, and a shape that
comes again is replayed as a CUDA graph. TensorRT-RTX compiles kernels for the card when it first sees a shape: they
are kept beside the engine.
"""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from .bundle import Bundle, Graph
from .cache_memory import CacheMemory
from .cuda import Cuda
from .device_buffers import Arena, Buffers
from .engine import AGAIN, STORE, Engine, check_origin, engine_path
from .errors import BundleError, MissingDependencyError, RequestError, WorkError
from .files import sha256_of_stream
from .kernel_cache import KernelCache
from .session import Array, Arrays, check_inputs, without_caches
from .validity import check_validity

logger = logging.getLogger(__name__)

_BATCH = "batch"


class TensorRTSession:
    """A graph's plan on a GPU.

    Args:
        bundle: the opened bundle.
        engine: the plan's record.
        cuda: the GPU.
        arena: shared by the pipeline's sessions.

    Raises:
        BundleError: the plan is missing, damaged, or compiled from something else.
        MissingDependencyError: the library does not load, or does not fit the plan.
        WorkError: the plan could not be opened.
    """

    def __init__(self, bundle: Bundle, engine: Engine, cuda: Cuda, arena: Arena) -> None:
        check_origin(bundle, engine)
        self.graph: Graph = bundle.graph(engine.spec.graph)
        self._engine, self._cuda, self._arena = engine, cuda, arena
        self._library = _import(engine.spec.backend)
        self._log = _log(self._library)
        self._plan: Any = self._open(engine_path(bundle, engine))
        self._cache = KernelCache(bundle.folder / STORE / f"{engine.spec.name}.cache")
        self._context: Any = self._create_context()
        self._buffers: Buffers | None = None
        self._asked = without_caches(self.graph)
        self._held: CacheMemory | None = None

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Compute the graph's outputs (see `Session.run`); more rows than the plan takes run in turns.

        Raises:
            RequestError: a wrong name, dtype or shape, or a shape outside the plan's profile.
            WorkError: the GPU failed.
        """
        check_inputs(self._asked, inputs)
        pieces = _pieces(self._asked, inputs, self._rows())
        outputs = [self._run(piece) for piece in pieces]
        return outputs[0] if len(outputs) == 1 else _joined(self._asked, outputs)

    def load_cache(self, arrays: Arrays, length: int) -> None:
        """See `CachingSession.load_cache`."""
        self._caches().load(arrays, length)

    def save_cache(self, length: int) -> dict[str, Array]:
        """See `CachingSession.save_cache`."""
        return self._caches().save(length)

    def _caches(self) -> CacheMemory:
        """Keys and values; their memory outlives the buffers of a shape."""
        if self._held is None:
            self._held = CacheMemory(self._cuda, self.graph)
        return self._held

    def close(self) -> None:
        """Give all device memory back."""
        if self._buffers is not None:
            self._buffers.close()
        if self._held is not None:
            self._held.close()
        self._buffers = self._held = self._context = self._plan = None

    def _open(self, path: Path) -> Any:
        """The plan, read from the very file whose bytes were hashed."""
        with path.open("rb") as stream:
            found = sha256_of_stream(stream)
            if found != self._engine.sha256:
                raise BundleError(f"{path} is damaged: SHA-256 {found}, recorded {self._engine.sha256}", AGAIN)
            runtime = self._library.Runtime(self._log)
            runtime.engine_host_code_allowed = False
            check_validity(self._library, runtime, stream, self._engine.spec)
            stream.seek(0)
            plan = runtime.deserialize_cuda_engine(_source(self._library, stream))
        if plan is None:
            raise WorkError(
                f"{self._engine.spec.backend} could not open the engine of {self.graph.file}: {self._log.complaint()}",
                AGAIN,
            )
        return plan

    def _create_context(self) -> Any:
        """An execution context whose activations are ours to place."""
        strategy = self._library.ExecutionContextAllocationStrategy.USER_MANAGED
        if not self._specialises:
            return self._plan.create_execution_context(strategy)
        config = self._plan.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        config.cuda_graph_strategy = self._library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._cache.attach(config)
        return self._plan.create_execution_context(config)

    @property
    def _specialises(self) -> bool:
        """TensorRT-RTX compiles kernels and captures CUDA graphs by itself."""
        return hasattr(self._library, "CudaGraphStrategy")

    def _rows(self) -> int | None:
        """The most rows the plan takes."""
        rows = [
            shapes.max[axis]
            for spec in self.graph.inputs
            for axis, side in enumerate(spec.shape)
            if side == _BATCH and (shapes := self._engine.spec.profile.get(spec.name)) is not None
        ]
        return min(rows, default=None)

    def _run(self, inputs: Arrays) -> dict[str, Array]:
        shapes = {name: tuple(value.shape) for name, value in inputs.items()}
        if self._buffers is None or self._buffers.shapes != shapes:
            self._prepare(shapes)
        buffers = self._buffers
        if buffers is None:
            raise WorkError("the session was closed", "open the pipeline again")
        buffers.upload(inputs)
        self._execute(buffers)
        outputs = buffers.download()
        self._cache.save()
        return outputs

    def _prepare(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Set shapes, and make buffers for all inputs and outputs."""
        self._check_profile(shapes)
        if self._buffers is not None:
            self._buffers.close()
            self._buffers = None
        held = self._caches() if len(self._asked.inputs) < len(self.graph.inputs) else None
        for name, shape in {**shapes, **(held.shapes if held else {})}.items():
            if not self._context.set_input_shape(name, shape):
                raise WorkError(f"{self.graph.file} refused {name} as {list(shape)}: {self._log.complaint()}")
        outputs = {spec.name: tuple(self._context.get_tensor_shape(spec.name)) for spec in self._asked.outputs}
        self._buffers = Buffers(self._cuda, self._asked, shapes, outputs)
        for name, address in {**self._buffers.addresses, **(held.addresses if held else {})}.items():
            self._context.set_tensor_address(name, address)
        self._arena.grow(int(self._context.update_device_memory_size_for_shapes()))

    def _check_profile(self, shapes: dict[str, tuple[int, ...]]) -> None:
        for name, shape in shapes.items():
            limits = self._engine.spec.profile.get(name)
            if limits is None:
                continue
            if any(not low <= side <= high for side, low, high in zip(shape, limits.min, limits.max, strict=True)):
                raise RequestError(
                    f"the engine of {self._engine.spec.graph} takes {name} from {list(limits.min)} to"
                    f" {list(limits.max)}, not {list(shape)}",
                    "build it for other sizes: unipic2-edge build BUNDLE --target auto --min WxH --max WxH",
                )

    def _execute(self, buffers: Buffers) -> None:
        """Enqueue the work, as a recorded graph where the same shapes and memory were run before."""
        if (self._arena.address, self._arena.size) != buffers.arena:
            buffers.forget()
            self._context.set_device_memory(self._arena.address, self._arena.size)
            buffers.arena = (self._arena.address, self._arena.size)
        if buffers.recorded is not None:
            self._cuda.launch(buffers.recorded)
            return
        self._enqueue()
        if not self._specialises:  # the first run has settled everything that recording must not see
            self._cuda.synchronize()
            self._cuda.capture()
            self._enqueue()
            buffers.recorded = self._cuda.captured()

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(int(self._cuda.stream)):
            raise WorkError(
                f"{self._engine.spec.backend} failed in {self.graph.file}: {self._log.complaint()}",
                "see: unipic2-edge doctor; a smaller picture needs less memory",
            )


def _import(backend: str) -> Any:
    try:
        return import_module(backend)
    except (ImportError, OSError) as error:
        extra = "rtx" if backend == "tensorrt_rtx" else "tensorrt"
        raise MissingDependencyError(
            f"{backend} cannot be loaded: {str(error).splitlines()[0]}",
            f'install it with: pip install "unipic2-edge[{extra}]"',
        ) from error


def _log(library: Any) -> Any:
    """A logger for the library that keeps its last error."""

    class Log(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self._error = "it gives no reason"

        def log(self, severity: Any, message: str) -> None:
            if severity <= library.ILogger.ERROR:
                self._error = " ".join(message.split())[:400]
            logger.log(logging.DEBUG if severity > library.ILogger.WARNING else logging.INFO, message)

        def complaint(self) -> str:
            return self._error

    return Log()


def _source(library: Any, stream: Any) -> Any:
    """A stream reader, so that the plan is never whole in host memory; its bytes for libraries that have none."""
    if not hasattr(library, "IStreamReaderV2"):  # TensorRT before 10.7
        return stream.read()

    class Reader(library.IStreamReaderV2):  # type: ignore[misc]
        def __init__(self) -> None:
            library.IStreamReaderV2.__init__(self)

        def read(self, num_bytes: int, _stream: int) -> bytes:
            return bytes(stream.read(min(num_bytes, 64 << 20)))

        def seek(self, offset: int, where: Any) -> bool:
            stream.seek(offset, int(where))
            return True

    return Reader()


def _pieces(graph: Graph, inputs: Arrays, rows: int | None) -> list[Arrays]:
    """Inputs cut along their batch, so that each piece has at most so many rows."""
    axes = {spec.name: spec.shape.index(_BATCH) for spec in graph.inputs if _BATCH in spec.shape}
    count = max((inputs[name].shape[axis] for name, axis in axes.items()), default=1)
    if rows is None or count <= rows:
        return [inputs]
    return [
        {
            name: np.take(value, range(start, min(start + rows, count)), axes[name]) if name in axes else value
            for name, value in inputs.items()
        }
        for start in range(0, count, rows)
    ]


def _joined(graph: Graph, outputs: list[dict[str, Array]]) -> dict[str, Array]:
    return {
        spec.name: np.concatenate([piece[spec.name] for piece in outputs], axis=spec.shape.index(_BATCH))
        for spec in graph.outputs
    }
