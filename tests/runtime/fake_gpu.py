"""A GPU that is not there: `tensorrt_rtx` or `tensorrt`, and CUDA, as modules that record their calls.

Device memory is memory of this process, and a plan names an ONNX graph that ONNX Runtime computes when the context
executes. So whole pictures come out of the adapter, and every address, copy and shape on the way has to be right.
"""

from __future__ import annotations

import ctypes
import enum
import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


class FakeCuda:
    """`cuda.bindings.runtime`: memory with known sizes, copies that must stay inside it, streams and graphs."""

    def __init__(self, total: int = 10**9) -> None:
        self.calls: list[str] = []
        self.memory: dict[int, ctypes.Array[ctypes.c_char]] = {}
        self.total = total
        self.capturing: list[Callable[[], None]] | None = None
        self.cudaError_t = enum.IntEnum(
            "cudaError_t",
            {
                "cudaSuccess": 0,
                "cudaErrorMemoryAllocation": 2,
                "cudaErrorInsufficientDriver": 35,
                "cudaErrorNoDevice": 100,
                "cudaErrorUnknown": 999,
            },
        )
        self.cudaMemcpyKind = enum.IntEnum("cudaMemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})
        self.cudaStreamCaptureMode = enum.IntEnum("cudaStreamCaptureMode", {"cudaStreamCaptureModeThreadLocal": 1})
        self.fail: dict[str, int] = {}

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if name.startswith("cuda") and callable(value) and not isinstance(value, type):
            self.calls.append(name)
            if name in self.fail:
                return lambda *arguments: (self.cudaError_t(self.fail[name]), None)
        return value

    def _ok(self, *values: Any) -> tuple[Any, ...]:
        return (self.cudaError_t.cudaSuccess, *values) if values else (self.cudaError_t.cudaSuccess,)

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return self._ok(1)

    def cudaSetDevice(self, index: int) -> tuple[Any, ...]:
        return self._ok()

    def cudaStreamCreate(self) -> tuple[Any, ...]:
        return self._ok(77)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        return self._ok()

    def cudaMemGetInfo(self) -> tuple[Any, ...]:
        return self._ok(self.total - sum(len(block) for block in self.memory.values()), self.total)

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        if sum(len(block) for block in self.memory.values()) + size > self.total:
            return (self.cudaError_t.cudaErrorMemoryAllocation, None)
        block = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(block)] = block
        return self._ok(ctypes.addressof(block))

    cudaMallocHost = cudaMalloc

    def cudaFree(self, address: int) -> tuple[Any, ...]:
        del self.memory[address]  # twice is an error
        return self._ok()

    cudaFreeHost = cudaFree

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Any, stream: int) -> tuple[Any, ...]:
        for address in (target, source):
            assert size <= len(self.memory[address]), "a copy leaves its buffer"
        ctypes.memmove(target, source, size)
        return self._ok()

    def cudaGetErrorString(self, code: Any) -> tuple[Any, ...]:
        return self._ok(b"an error of the fake")

    def cudaStreamBeginCapture(self, stream: int, mode: Any) -> tuple[Any, ...]:
        self.capturing = []
        return self._ok()

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        recorded, self.capturing = self.capturing, None
        return self._ok(recorded)

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any, ...]:
        return self._ok(graph)

    def cudaGraphDestroy(self, graph: Any) -> tuple[Any, ...]:
        return self._ok()

    def cudaGraphExecDestroy(self, graph: Any) -> tuple[Any, ...]:
        return self._ok()

    def cudaGraphLaunch(self, graph: list[Callable[[], None]], stream: int) -> tuple[Any, ...]:
        for work in graph:
            work()
        return self._ok()


class _Logger:
    ERROR, WARNING, INFO = 1, 2, 3

    def log(self, severity: int, message: str) -> None:
        raise NotImplementedError


class _Reader:
    def read(self, num_bytes: int, stream: int) -> bytes:
        raise NotImplementedError


class _Cache:
    """A runtime cache: a list of shapes, as bytes."""

    def __init__(self) -> None:
        self.content = b""

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(b"kernels"):
            return False
        self.content = blob
        return True

    def serialize(self) -> bytes:
        return self.content


def plan_bytes(graph: str, weights: str) -> bytes:
    """A plan of the fake: it names an ONNX file and the folder of its weights."""
    return json.dumps({"graph": graph, "weights": weights}).encode() + b" " * 200


def fake_tensorrt(cuda: FakeCuda, rtx: bool = True, validity: tuple[int, int] = (0, 0)) -> Any:
    """The library's module."""
    library: Any = types.ModuleType("tensorrt_rtx" if rtx else "tensorrt")
    library.__version__ = "1.7.1.116" if rtx else "10.13.3"
    library.log, library.contexts = [], []
    library.ILogger, library.IStreamReaderV2 = _Logger, _Reader
    library.ExecutionContextAllocationStrategy = types.SimpleNamespace(STATIC=0, USER_MANAGED=2)
    if rtx:
        library.CudaGraphStrategy = types.SimpleNamespace(DISABLED=0, WHOLE_GRAPH_CAPTURE=1)
        library.EngineValidity = types.SimpleNamespace(VALID=0, SUBOPTIMAL=1, INVALID=2)
        library.EngineInvalidityDiagnostics = enum.IntFlag(
            "EngineInvalidityDiagnostics",
            {
                "VERSION_MISMATCH": 1,
                "UNSUPPORTED_CC": 2,
                "OLD_CUDA_DRIVER": 4,
                "OLD_CUDA_RUNTIME": 8,
                "INSUFFICIENT_GPU_MEMORY": 16,
                "MALFORMED_ENGINE": 32,
                "CUDA_ERROR": 64,
            },
        )

    class Runtime:
        def __init__(self, log: Any) -> None:
            self.log, self.engine_host_code_allowed, self.engine_header_size = log, True, 64

        def deserialize_cuda_engine(self, source: Any) -> Any:
            assert self.engine_host_code_allowed is False, "host code in a plan must stay disallowed"
            content = source if isinstance(source, bytes) else b"".join(iter(lambda: source.read(64, 0), b""))
            library.log.append("deserialize")
            if content.startswith(b"broken"):
                self.log.log(1, "the fake does not like it")
                return None
            return _Plan(library, cuda, json.loads(content))

    if rtx:
        Runtime.get_engine_validity = lambda self, header: validity  # type: ignore[attr-defined]
    library.Runtime = Runtime
    return library


class _Plan:
    def __init__(self, library: Any, cuda: FakeCuda, names: dict[str, str]) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", names["weights"])
        model = Path(names["graph"]).read_bytes()
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.library, self.cuda = library, cuda

    def create_runtime_config(self) -> Any:
        config = types.SimpleNamespace(cache=None, cuda_graph_strategy=0, strategy=0, create_runtime_cache=_Cache)
        config.set_execution_context_allocation_strategy = lambda value: setattr(config, "strategy", value)
        config.set_runtime_cache = lambda value: setattr(config, "cache", value)
        return config

    def create_execution_context(self, configured: Any) -> Any:
        context = _Context(self, configured)
        self.library.contexts.append(context)
        return context


class _Context:
    def __init__(self, plan: _Plan, configured: Any) -> None:
        self.plan, self.configured = plan, configured
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.device_memory: tuple[int, int] = (0, 0)
        self.executed = 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return True

    def _inputs(self, read: bool) -> dict[str, np.ndarray]:
        found = {}
        for value in self.plan.session.get_inputs():
            dtype = np.int64 if "int64" in value.type else np.float32
            shape = self.shapes[value.name]
            if not read:
                found[value.name] = np.zeros(shape, dtype)
                continue
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            block = self.plan.cuda.memory[self.addresses[value.name]]
            found[value.name] = np.frombuffer(block, np.uint8)[:size].view(dtype).reshape(shape)
        return found

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        names = [value.name for value in self.plan.session.get_outputs()]
        return self.plan.session.run(None, self._inputs(read=False))[names.index(name)].shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        return 64 * int(sum(np.prod(shape) for shape in self.shapes.values()))

    def set_device_memory(self, address: int, size: int) -> None:
        assert size <= len(self.plan.cuda.memory[address])
        self.device_memory = (address, size)

    def execute_async_v3(self, stream: int) -> bool:
        assert self.device_memory[1] >= self.update_device_memory_size_for_shapes(), "too small an arena"
        if self.plan.cuda.capturing is not None:
            self.plan.cuda.capturing.append(self._compute)
        else:
            self._compute()
        return True

    def _compute(self) -> None:
        assert self.device_memory[0] in self.plan.cuda.memory, "the arena was freed"
        self.executed += 1
        outputs = self.plan.session.run(None, self._inputs(read=True))
        for value, array in zip(self.plan.session.get_outputs(), outputs, strict=True):
            block = self.plan.cuda.memory[self.addresses[value.name]]
            assert array.nbytes <= len(block)
            ctypes.memmove(block, np.ascontiguousarray(array).ctypes.data, array.nbytes)
        cache = getattr(self.configured, "cache", None)
        if cache is not None:
            cache.content = b"kernels " + json.dumps(sorted(self.shapes.items())).encode()
