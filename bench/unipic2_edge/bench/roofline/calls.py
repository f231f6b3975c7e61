"""The calls that a pipeline makes of its graphs: recorded while they run, or only asked for, with no model behind.

The pipeline itself says what it calls, how often and with which shapes, so nothing of that is written down again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from unipic2_edge.export.work import Work, graph_work
from unipic2_edge.runtime.bundle import Bundle, Graph
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.runtime.pool import SessionPool
from unipic2_edge.runtime.session import Array, Arrays, Session, check_inputs, stored_dtype

from .denoiser_only import is_denoiser_only, run_denoiser
from .workload import Workload

Extents = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Call:
    """One call of a graph: the values of its named dimensions, and its seconds if it really ran."""

    graph: str
    extents: Extents
    seconds: float | None = None


class WorkTable:
    """The work of a bundle's graphs, counted once for each graph and shape."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._known: dict[tuple[str, Extents], Work] = {}

    def __getitem__(self, call: tuple[str, Extents]) -> Work:
        """The work of one call of a graph.

        Raises:
            BundleError: see `graph_work`.
        """
        if call not in self._known:
            self._known[call] = graph_work(self._bundle, call[0], dict(call[1]))
        return self._known[call]


class RecordingPool(SessionPool):
    """A pipeline's sessions, each call of which is timed and added to `calls`.

    Args:
        bundle: the pipeline's.
        inner: its sessions.
        shapes: whether calls know their extents; finding them takes some microseconds a call.
    """

    def __init__(self, bundle: Bundle, inner: SessionPool, shapes: bool = True) -> None:
        super().__init__(bundle, lambda name: inner[name])
        self.calls: list[Call] = []
        self._inner, self._shapes = inner, shapes
        self._wrapped: dict[str, tuple[Session, _Recorded]] = {}

    def __getitem__(self, name: str) -> Session:
        """The session, opened by the pool inside and wrapped; the same one as long as that stays open."""
        session = self._inner[name]
        known = self._wrapped.get(name)
        if known is None or known[0] is not session:
            known = self._wrapped[name] = session, _Recorded(name, session, self.calls, self._shapes)
        return known[1]

    def open_ahead(self, names: Iterable[str]) -> None:
        """As `SessionPool.open_ahead`."""
        self._inner.open_ahead(names)

    def close(self, names: Iterable[str] | None = None) -> None:
        """As `SessionPool.close`."""
        self._inner.close(names)


class _Recorded:
    """A session that times its calls; what else a backend's session can do, it can."""

    def __init__(self, name: str, inner: Session, calls: list[Call], shapes: bool) -> None:
        self.graph = inner.graph
        self._name, self._inner, self._calls, self._shapes = name, inner, calls, shapes

    def run(self, inputs: Arrays) -> dict[str, Array]:
        start = time.perf_counter()
        outputs = self._inner.run(inputs)
        seconds = time.perf_counter() - start
        self._calls.append(Call(self._name, extents_of(self.graph, inputs) if self._shapes else (), seconds))
        return outputs

    def close(self) -> None:
        self._inner.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Asked:
    """A session with no model behind: zeros of the right shapes."""

    def __init__(self, name: str, graph: Graph, works: WorkTable, calls: list[Call]) -> None:
        self.graph = graph
        self._name, self._works, self._calls = name, works, calls

    def run(self, inputs: Arrays) -> dict[str, Array]:
        check_inputs(self.graph, inputs)
        extents = extents_of(self.graph, inputs)
        shapes = self._works[self._name, extents].outputs
        self._calls.append(Call(self._name, extents))
        return {spec.name: np.zeros(shapes[spec.name], stored_dtype(spec)) for spec in self.graph.outputs}

    def close(self) -> None:
        pass


def extents_of(graph: Graph, inputs: Mapping[str, Array]) -> Extents:
    """The values of a graph's named dimensions, by name, from its inputs."""
    found = {
        side: length
        for spec in graph.inputs
        if spec.name in inputs
        for side, length in zip(spec.shape, inputs[spec.name].shape, strict=True)
        if isinstance(side, str)
    }
    return tuple(sorted(found.items()))


def asked_calls(bundle: Bundle, workload: Workload, works: WorkTable) -> list[Call]:
    """The calls of one run, in their order; no weights are read and nothing is computed.

    A bundle of the denoiser alone makes the denoiser's calls alone.

    Raises:
        UserError: the bundle cannot do the task at this size, or is damaged.
    """
    calls: list[Call] = []
    pool = SessionPool(bundle, lambda name: _Asked(name, bundle.graph(name), works, calls))
    if is_denoiser_only(bundle):
        run_denoiser(bundle, pool, workload)
    else:
        workload.run(Pipeline(bundle, pool))
    return calls


def recorded_runs(
    pipeline: Pipeline, workload: Workload, runs: int, done: Callable[[str], None] = lambda name: None
) -> list[tuple[list[Call], float]]:
    """The calls of each of some runs and its seconds, after a run to warm up.

    Every run begins with a fresh pipeline on the same sessions, so that no prompt is remembered.

    Raises:
        UserError: see `Pipeline.generate`.
    """
    made = []
    for run in range(runs + 1):
        pool = RecordingPool(pipeline.bundle, pipeline.sessions)
        seconds = workload.run(Pipeline(pipeline.bundle, pool, pipeline.placement))
        if run:
            made.append((pool.calls, seconds))
        done("run" if run else "warm-up")
    return made
