"""Device memory of graphs on a GPU: the arena that all share for activations, and a graph's inputs and outputs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from .bundle import Graph
from .cuda import Cuda, Pinned
from .errors import UserError
from .session import Array, Arrays


class Arena:
    """Device memory for activations, shared by graphs that run one after another; it grows, and never shrinks."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.address, self.size = 0, 0

    def grow(self, size: int) -> None:
        """Have at least this many bytes; the address changes when there were fewer.

        Raises:
            WorkError: the device has not enough.
        """
        if size <= self.size:
            return
        self.close()
        self.address = self._cuda.allocate(size)
        self.size = size

    def close(self) -> None:
        """Give the memory back."""
        if self.size:
            self._cuda.free(self.address)
            self.address, self.size = 0, 0


class Buffers:
    """Device and pinned memory of one set of shapes."""

    def __init__(
        self, cuda: Cuda, graph: Graph, inputs: dict[str, tuple[int, ...]], outputs: dict[str, tuple[int, ...]]
    ) -> None:
        self.shapes, self.arena = inputs, (0, 0)
        self.recorded: Any = None
        self._cuda = cuda
        dtypes = {spec.name: np.dtype(spec.dtype) for spec in (*graph.inputs, *graph.outputs)}
        self._pinned: dict[str, Pinned] = {}
        self.addresses: dict[str, int] = {}
        self._outputs = tuple(outputs)
        self._unchanging: dict[str, Array] = {}
        with self._closed_on_failure():
            for name, shape in {**inputs, **outputs}.items():
                self._pinned[name] = cuda.pinned(shape, dtypes[name])
                self.addresses[name] = cuda.allocate(self._pinned[name].array.nbytes)

    @contextlib.contextmanager
    def _closed_on_failure(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            self.close()
            raise

    def upload(self, inputs: Arrays) -> None:
        """Copy inputs; a read-only array that was the last one too stands there already."""
        for name, value in inputs.items():
            if self._unchanging.get(name) is value:
                continue
            self._unchanging.pop(name, None)
            np.copyto(self._pinned[name].array, value)
            self._cuda.upload(self.addresses[name], self._pinned[name].array)
            if not value.flags.writeable and value.base is None:
                self._unchanging[name] = value

    def download(self) -> dict[str, Array]:
        """Outputs as arrays of their own, once the stream is done."""
        for name in self._outputs:
            self._cuda.download(self._pinned[name].array, self.addresses[name])
        self._cuda.synchronize()
        return {name: self._pinned[name].array.copy() for name in self._outputs}

    def forget(self) -> None:
        """Drop the recorded graph: its memory has moved."""
        if self.recorded is not None:
            self._cuda.discard(self.recorded)
            self.recorded = None

    def close(self) -> None:
        """Give everything back."""
        self.forget()
        for address in self.addresses.values():
            self._cuda.free(address)
        for pinned in self._pinned.values():
            pinned.close()
        self.addresses, self._pinned = {}, {}
