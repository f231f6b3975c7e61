"""Builds a bundle's engine set: what stands is kept, what is missing is compiled, targets are assigned last."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.engine import Contest, Engine
from unipic2_edge.runtime.errors import WorkError

from .compiler import find_compiler
from .engine_set import Job, Options, engine_set
from .sizes import default_sizes
from .store import Store
from .targets import targets_of
from .worker import compile_graph

logger = logging.getLogger(__name__)

#: Called with the job, the phase the compiler is in and how much of it is done; the share is 1 when it is over.
Report = Callable[[Job, str, float], None]


@dataclass(frozen=True)
class Built:
    """One engine of the set, the targets it serves, and whether it was there already.

    `rivals` are the engines that it was measured against, itself among them, and `contest` what was measured.
    """

    engine: Engine
    targets: tuple[str, ...]
    cached: bool
    rivals: tuple[Engine, ...] = ()
    contest: Contest | None = None


def build(bundle: Bundle, jobs: Sequence[Job], report: Report = lambda job, phase, share: None) -> list[Built]:
    """Build engines, or find that they are built, and let their targets use them.

    Where a graph has several engines for the same targets, all are built, timed, and one serves (`contest.decide`).
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
        built = _decided(bundle, _all_built(store, bundle, jobs, report))
        for target in dict.fromkeys(target for job in jobs for target in job.targets):
            mine = {made.engine.spec.graph: made for made in built if target in made.targets}
            contests = {graph: made.contest for graph, made in mine.items() if made.contest is not None}
            store.assign(target, {graph: made.engine.spec.name for graph, made in mine.items()}, contests)
    return built


def compile_jobs(bundle: Bundle, jobs: Sequence[Job]) -> list[Built]:
    """Build engines, or find that they are built, and let no target use them.

    So engines of several backends for one target stay side by side, for whoever opens them by name.

    Raises:
        BundleError, OutputError, WorkError: see `build`.
    """
    store = Store(bundle)
    with store.changing():
        return [_built(store, bundle, job, lambda job, phase, share: None) for job in jobs]


def build_targets(bundle: Bundle, names: str, options: Options | None = None) -> list[Built]:
    """Build a bundle for targets by name ("rtx-30,rtx-40"), by default for the default sizes.

    Raises:
        RequestError, MissingDependencyError: see `engine_set`.
        BundleError, OutputError, WorkError: see `build`.
    """
    wanted = options or Options(sizes=default_sizes(bundle.manifest))
    return build(bundle, engine_set(bundle, targets_of(names), wanted))


def _all_built(store: Store, bundle: Bundle, jobs: Sequence[Job], report: Report) -> list[tuple[Job, Built]]:
    """Every job and its engine; a further backend that refuses a graph is left out, the first one serves it."""
    pairs: list[tuple[Job, Built]] = []
    for job in jobs:
        try:
            pairs.append((job, _built(store, bundle, job, report)))
        except WorkError as error:
            if all((job.spec.graph, job.targets) != (other.spec.graph, other.targets) for other, _ in pairs):
                raise
            logger.warning("%s: %s", job.spec.backend, error.problem)
    return pairs


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


def _decided(bundle: Bundle, pairs: Sequence[tuple[Job, Built]]) -> list[Built]:
    """One engine of each graph and its targets: where there are more, the one that a contest decides for."""
    groups: dict[tuple[str, tuple[str, ...]], list[tuple[Job, Built]]] = {}
    for job, made in pairs:
        groups.setdefault((job.spec.graph, job.targets), []).append((job, made))
    if len(groups) == len(pairs):
        return [made for _, made in pairs]
    from .contest import decide

    contests = {group[0][0].spec.graph: _contest(bundle, group) for group in groups.values() if len(group) > 1}
    chosen = decide(bundle, contests)
    return [group[0][1] if len(group) == 1 else _winner(group, contests, chosen) for group in groups.values()]


def _contest(bundle: Bundle, group: Sequence[tuple[Job, Built]]) -> Contest:
    from .contest import hold_contest, standing_contest

    job, engines = group[0][0], [made.engine for _, made in group]
    standing = standing_contest(bundle, job.targets[0], engines, job.threads)
    return standing or hold_contest(bundle, engines, job.profile, job.threads)


def _winner(group: Sequence[tuple[Job, Built]], contests: Mapping[str, Contest], chosen: Mapping[str, str]) -> Built:
    graph, rivals = group[0][0].spec.graph, [made for _, made in group]
    best = next(made for made in rivals if made.engine.spec.name == chosen[graph])
    return replace(
        best,
        cached=all(made.cached for made in rivals),
        rivals=tuple(made.engine for made in rivals),
        contest=contests[graph],
    )
