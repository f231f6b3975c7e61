"""CUDA as far as engines need it: memory on the device, pinned memory on the host, one stream; through cuda-python."""

from __future__ import annotations

import ctypes
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .errors import DeviceLostError, MemoryRanOutError, MissingDependencyError, RequestError


class Cuda:
    """One GPU's runtime API, with errors as user errors, and the stream everything runs on.

    Args:
        index: the GPU's.

    Raises:
        MissingDependencyError: cuda-python is not installed, or the driver is missing or too old for it.
        RequestError: there is no such GPU.
    """

    def __init__(self, index: int) -> None:
        self._api = _import_runtime()
        (count,) = self._call("cudaGetDeviceCount")
        if index >= count:
            raise RequestError(f"there is no GPU {index}; this machine has {count}", "see: unipic2-edge doctor")
        self._call("cudaSetDevice", index)
        (self.stream,) = self._call("cudaStreamCreate")

    def allocate(self, size: int) -> int:
        """Device memory of a size in bytes; its address.

        Raises:
            WorkError: there is not enough.
        """
        (address,) = self._call("cudaMalloc", max(size, 1))
        return int(address)

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._call("cudaFree", address)

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> Pinned:
        """An array in page-locked host memory, which copies need to run beside other work."""
        return Pinned(self, shape, dtype)

    def allocate_pinned(self, size: int) -> int:
        """Page-locked host memory; its address."""
        (address,) = self._call("cudaMallocHost", max(size, 1))
        return int(address)

    def free_pinned(self, address: int) -> None:
        """Give page-locked memory back."""
        self._call("cudaFreeHost", address)

    def upload(self, device: int, host: NDArray[Any]) -> None:
        """Copy an array to the device, in the stream's turn."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", device, host.ctypes.data, host.nbytes, kind, self.stream)

    def download(self, host: NDArray[Any], device: int) -> None:
        """Copy from the device into an array, in the stream's turn."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", host.ctypes.data, device, host.nbytes, kind, self.stream)

    def synchronize(self) -> None:
        """Wait for everything in the stream.

        Raises:
            WorkError: something in it failed.
        """
        self._call("cudaStreamSynchronize", self.stream)

    def free_bytes(self) -> int:
        """Device memory that is free now."""
        return int(self._call("cudaMemGetInfo")[0])

    def capture(self) -> None:
        """Record what enters the stream instead of running it."""
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self.stream, mode)

    def captured(self) -> Any:
        """End recording; a graph that can be launched."""
        (graph,) = self._call("cudaStreamEndCapture", self.stream)
        (executable,) = self._call("cudaGraphInstantiate", graph, 0)
        self._call("cudaGraphDestroy", graph)
        return executable

    def launch(self, executable: Any) -> None:
        """Run a recorded graph in the stream."""
        self._call("cudaGraphLaunch", executable, self.stream)

    def discard(self, executable: Any) -> None:
        """Give a recorded graph back."""
        self._call("cudaGraphExecDestroy", executable)

    def _call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        code, *values = getattr(self._api, name)(*arguments)
        if int(code) != 0:
            raise _explained(self._api, name, code)
        return tuple(values)


class Pinned:
    """A numpy array over page-locked memory; `array` must not be used after `close`."""

    def __init__(self, cuda: Cuda, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._cuda = cuda
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        self._address = cuda.allocate_pinned(size)
        memory = (ctypes.c_byte * max(size, 1)).from_address(self._address)
        self.array: NDArray[Any] = (
            np.frombuffer(memoryview(memory).cast("B"), dtype=np.uint8)[:size].view(dtype).reshape(shape)
        )

    def close(self) -> None:
        """Give the memory back."""
        self._cuda.free_pinned(self._address)


def _import_runtime() -> Any:
    try:
        return import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise MissingDependencyError(
            f"cuda-python cannot be loaded: {str(error).splitlines()[0]}",
            'install it with: pip install "unipic2-edge[rtx]", or "unipic2-edge[tensorrt]" on a Jetson',
        ) from error


def _explained(api: Any, name: str, code: Any) -> Exception:
    """What a CUDA error means to a user."""
    known = api.cudaError_t
    if code == known.cudaErrorMemoryAllocation:
        return MemoryRanOutError(
            "the GPU's memory ran out", "close other programs, give --memory, or make smaller or fewer pictures"
        )
    if code in (known.cudaErrorInsufficientDriver, known.cudaErrorNoDevice):
        return MissingDependencyError(
            "no NVIDIA driver that is new enough for this CUDA was found",
            "update the driver, or use --device cpu",
        )
    text = api.cudaGetErrorString(code)[1]
    said = text.decode() if isinstance(text, bytes) else str(text)
    # Any other error sticks to the context: every later call fails with it as well (CUDA Runtime API, error handling).
    return DeviceLostError(f"CUDA failed in {name}: {said}", "see: unipic2-edge doctor; try again with --verbose")
