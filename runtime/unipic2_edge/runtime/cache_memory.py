"""A language model's keys and values in device memory: written in place by its graph, copied only to be kept."""

from __future__ import annotations

import numpy as np

from .bundle import Graph, TensorSpec
from .cuda import Cuda
from .session import Array, Arrays, cache_inputs, stored_dtype


class CacheMemory:
    """The caches [1, heads, T, d] of one graph.

    Args:
        cuda: the GPU.
        graph: with inputs `cache_…` and outputs `updated_…`.

    Raises:
        WorkError: the device has not enough memory.
    """

    def __init__(self, cuda: Cuda, graph: Graph) -> None:
        self._cuda = cuda
        pairs = cache_inputs(graph)
        self._specs = [spec for spec in graph.inputs if spec.name in pairs]
        self.shapes = {spec.name: _shape(spec) for spec in self._specs}
        self.addresses: dict[str, int] = {}
        for spec in self._specs:
            size = int(np.prod(_shape(spec))) * stored_dtype(spec).itemsize
            self.addresses[spec.name] = self.addresses[pairs[spec.name]] = cuda.allocate(size)

    def load(self, arrays: Arrays, length: int) -> None:
        """Fill the first `length` places of every cache; the others are zero, so that nothing there is not-a-number."""
        for spec in self._specs:
            staging = self._cuda.pinned(_shape(spec), stored_dtype(spec))
            staging.array[:, :, :length] = arrays[spec.name] if length else 0
            staging.array[:, :, length:] = 0
            self._cuda.upload(self.addresses[spec.name], staging.array)
            self._cuda.synchronize()
            staging.close()

    def save(self, length: int) -> dict[str, Array]:
        """Copies [1, heads, length, d] of the first places."""
        made = {}
        for spec in self._specs:
            staging = self._cuda.pinned(_shape(spec), stored_dtype(spec))
            self._cuda.download(staging.array, self.addresses[spec.name])
            self._cuda.synchronize()
            made[spec.name] = staging.array[:, :, :length].copy()
            staging.close()
        return made

    def close(self) -> None:
        """Give the memory back."""
        for spec in self._specs:
            self._cuda.free(self.addresses[spec.name])
        self.addresses = {}


def _shape(spec: TensorSpec) -> tuple[int, ...]:
    """With one row: sequences are read one after another."""
    return tuple(side if isinstance(side, int) else 1 for side in spec.shape)
