"""Which of several engines serves a graph on a processor: the one that was faster here, if that is worth it.

Both backends run the same picture's shapes in turns, so that a machine that is busy is busy for both. What was
measured is kept in the target's record; it is measured again on another processor or for other engines. A second
library takes half a second to load, OpenVINO opens graphs more slowly than ONNX Runtime, and medians of a few runs
differ by some percent by chance: it takes a graph over where that saves a part of a whole picture that can be felt.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from statistics import median

import numpy as np
from numpy.typing import NDArray

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.engine import Contest, Engine, Shapes, read_target
from unipic2_edge.runtime.errors import BundleError, WorkError
from unipic2_edge.runtime.opening import open_on_processor
from unipic2_edge.runtime.openvino_session import core
from unipic2_edge.runtime.session import Session

logger = logging.getLogger(__name__)

#: Rounds at most, and how long they may take in seconds; two are run in any case.
_ROUNDS, _ENOUGH = 9, 2.0
#: The part of a picture's time that a graph must save through a backend that is not the target's first.
WORTH = 0.1


def hold_contest(
    bundle: Bundle, engines: Sequence[Engine], profile: Mapping[str, Shapes], threads: int | None
) -> Contest:
    """Time engines of one graph on its likely shapes; those after the first may fail, and are then left out.

    Raises:
        BundleError: an engine is damaged.
        WorkError: the first engine cannot be opened or fails.
    """
    inputs = example_inputs(bundle, engines[0].spec.graph, profile)
    with ExitStack() as opened:
        sessions: dict[str, Session] = {}
        for engine in engines:
            try:
                session = opened.enter_context(closing(open_on_processor(bundle, engine, threads)))
                session.run(inputs)  # the first run sets things up, and is not counted
            except WorkError as error:
                if not sessions:
                    raise
                logger.warning("%s: %s", engine.spec.backend, error.problem)
            else:
                sessions[engine.spec.name] = session
        return Contest(processor=processor_name(), threads=threads, seconds=_timed(sessions, inputs))


def decide(bundle: Bundle, contests: Mapping[str, Contest]) -> dict[str, str]:
    """Graph → the name of the engine that serves it: the first, unless the fastest saves `WORTH` of a picture."""
    first = {graph: next(iter(contest.seconds)) for graph, contest in contests.items()}
    defaults = bundle.manifest.defaults.values()
    runs = {"denoiser": max((task.num_inference_steps for task in defaults), default=1)}
    picture = sum(runs.get(graph, 1) * contest.seconds[first[graph]] for graph, contest in contests.items())
    chosen = {}
    for graph, contest in contests.items():
        fastest = min(contest.seconds, key=lambda name: contest.seconds[name])
        saved = runs.get(graph, 1) * (contest.seconds[first[graph]] - contest.seconds[fastest])
        chosen[graph] = fastest if saved >= WORTH * picture else first[graph]
    return chosen


def standing_contest(bundle: Bundle, target: str, engines: Sequence[Engine], threads: int | None) -> Contest | None:
    """What was measured before, if it was these engines, here, with as many threads."""
    try:
        record = read_target(bundle, target)
    except BundleError:
        return None
    contest = record.contests.get(engines[0].spec.graph) if record is not None else None
    if contest is None or set(contest.seconds) != {engine.spec.name for engine in engines}:
        return None
    return contest if (contest.processor, contest.threads) == (processor_name(), threads) else None


def processor_name() -> str:
    """The processor's model, as OpenVINO names it."""
    return str(core().get_property("CPU", "FULL_DEVICE_NAME")).strip()


def example_inputs(bundle: Bundle, graph: str, profile: Mapping[str, Shapes]) -> dict[str, NDArray[np.generic]]:
    """Inputs of a graph's likely shapes: random numbers, the lowest token ids; the same ones each time."""
    generator, inputs = np.random.default_rng(0), {}
    for spec in bundle.graph(graph).inputs:
        shape = profile[spec.name].opt if spec.name in profile else tuple(int(side) for side in spec.shape)
        if np.issubdtype(np.dtype(spec.dtype), np.integer):
            inputs[spec.name] = np.zeros(shape, spec.dtype)
        else:
            inputs[spec.name] = generator.standard_normal(shape, np.float32).astype(spec.dtype)
    return inputs


def _timed(sessions: Mapping[str, Session], inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, float]:
    """The median seconds of a run by session."""
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    begin = time.perf_counter()
    for done in range(_ROUNDS):
        if done >= 2 and time.perf_counter() - begin > _ENOUGH:
            break
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(inputs)
            taken[name].append(time.perf_counter() - start)
    return {name: round(median(seconds), 7) for name, seconds in taken.items()}
