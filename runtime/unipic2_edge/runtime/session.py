"""A session: one graph, opened; named arrays in, named arrays out. The adapters are modules of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from .bundle import Graph, TensorSpec
from .errors import RequestError

CACHE, _UPDATED = "cache_", "updated_"
#: numpy has no bfloat16. Only keys and values cross a graph's border in it, and no host counts with them: their bits.
_STORED = {"bfloat16": "uint16"}
Array = NDArray[Any]
Arrays = Mapping[str, Array]


class Session(Protocol):
    """One opened graph.

    `run` takes exactly the graph's inputs by name and returns its outputs by name; it raises `RequestError`
    for a wrong name, dtype or shape, and `WorkError` when the backend fails.
    """

    graph: Graph

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Compute the graph's outputs from its inputs."""
        ...

    def close(self) -> None:
        """Give its memory back; it cannot run any more."""
        ...


class CachingSession(Session, Protocol):
    """A language model's graph whose keys and values stay where it computes, in memory of one length.

    `run` takes and gives everything but them (see `without_caches`).
    """

    def load_cache(self, arrays: Arrays, length: int) -> None:
        """Put the first `length` places there, by the names of the graph's inputs; what is behind them is zero."""
        ...

    def save_cache(self, length: int) -> dict[str, Array]:
        """The first `length` places, by the names of the graph's inputs."""
        ...


def stored_dtype(spec: TensorSpec) -> np.dtype[Any]:
    """What an input or output is held as in numpy."""
    return np.dtype(_STORED.get(spec.dtype, spec.dtype))


def cache_inputs(graph: Graph) -> dict[str, str]:
    """The inputs that are keys and values of one length, each with the output that takes its place."""
    return {spec.name: spec.name.replace(CACHE, _UPDATED, 1) for spec in graph.inputs if spec.name.startswith(CACHE)}


def without_caches(graph: Graph) -> Graph:
    """A graph's signature as the caller of a session sees it that holds keys and values itself."""
    held = cache_inputs(graph)
    return msgspec.structs.replace(
        graph,
        inputs=tuple(spec for spec in graph.inputs if spec.name not in held),
        outputs=tuple(spec for spec in graph.outputs if spec.name not in held.values()),
    )


def check_inputs(graph: Graph, inputs: Arrays) -> None:
    """Compare arrays with a graph's signature: names, dtypes, ranks, fixed and named dimensions.

    Raises:
        RequestError: the first thing that does not fit.
    """
    if len(inputs) != len(graph.inputs):
        unknown = sorted(set(inputs) - {spec.name for spec in graph.inputs})
        if unknown:
            raise _misfit(graph, f"has no input {unknown[0]!r}")
    named: dict[str, int] = {}
    for spec in graph.inputs:
        value = inputs.get(spec.name)
        if value is None:
            raise _misfit(graph, f"needs the input {spec.name!r}")
        _check_tensor(graph, spec, value, named)


def _check_tensor(graph: Graph, spec: TensorSpec, value: Array, named: dict[str, int]) -> None:
    if value.dtype.name != _STORED.get(spec.dtype, spec.dtype):
        raise _misfit(graph, f"takes {spec.name} as {spec.dtype}, not {value.dtype.name}")
    if value.ndim != len(spec.shape):
        raise _misfit(graph, f"takes {spec.name} as {_shape(spec.shape)}, not {_shape(value.shape)}")
    for expected, found in zip(spec.shape, value.shape, strict=True):
        wanted = named.setdefault(expected, found) if isinstance(expected, str) else expected
        if wanted != found:
            raise _misfit(
                graph,
                f"takes {spec.name} as {_shape(spec.shape)} with {expected} = {wanted}, not {_shape(value.shape)}",
            )


def _misfit(graph: Graph, what: str) -> RequestError:
    return RequestError(f"the graph {graph.file} {what}", "pass the inputs that the bundle's manifest lists")


def _shape(shape: tuple[int | str, ...]) -> str:
    return "[" + ", ".join(str(side) for side in shape) + "]"
