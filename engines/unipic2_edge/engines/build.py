"""Builds a bundle's engine set: what stands is kept, what is missing is compiled, targets are assigned last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.engine import Engine

from .compiler import find_compiler
from .engine_set import Job, Options, engine_set
from .sizes import default_sizes
from .store import Store
from .targets import targets_of
from .worker import compile_graph

#: Called with the job, the phase the compiler is in and how much of it is done; the share is 1 when it is over.
Report = Callable[[Job, str, float], None]


@dataclass(frozen=True)
class Built:
    """One engine of the set, the targets it serves, and whether it was there already."""

    engine: Engine
    targets: tuple[str, ...]
    cached: bool


def build(bundle: Bundle, jobs: Sequence[Job], report: Report = lambda job, phase, share: None) -> list[Built]:
    """Build engines, or find that they are built, and let their targets use them.

    Engines that are stale (another graph, other weights, another library, other sizes or settings) or damaged
    are replaced. Several processes asking at once build once. When one engine fails, those that were finished
    stay for the next try, and the targets keep the engines that they had.

    Raises:
        BundleError: the bundle is damaged.
        OutputError: the bundle cannot be written to.
        WorkError: a graph could not be compiled, or the disk is full.
    """
    store = Store(bundle)
    with store.changing():
        built = [_built(store, bundle, job, report) for job in jobs]
        for target in dict.fromkeys(target for job in jobs for target in job.targets):
            engines = {made.engine.spec.graph: made.engine.spec.name for made in built if target in made.targets}
            store.assign(target, engines)
    return built


def build_targets(bundle: Bundle, names: str, options: Options | None = None) -> list[Built]:
    """Build a bundle for targets by name ("rtx-30,rtx-40"), by default for the default sizes.

    Raises:
        RequestError, MissingDependencyError: see `engine_set`.
        BundleError, OutputError, WorkError: see `build`.
    """
    wanted = options or Options(sizes=default_sizes(bundle.manifest))
    return build(bundle, engine_set(bundle, targets_of(names), wanted))


def _built(store: Store, bundle: Bundle, job: Job, report: Report) -> Built:
    standing = store.find(job.spec)
    if standing is None:
        engine = store.add(
            job.spec,
            find_compiler(job.spec.backend).suffix,
            lambda output: compile_graph(bundle, job.spec, output, lambda phase, share: report(job, phase, share)),
        )
    else:
        engine = standing
    report(job, "done", 1.0)
    return Built(engine, job.targets, cached=standing is not None)
