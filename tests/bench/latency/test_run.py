"""Timer honesty: a stage that sleeps is the one that took longer, by exactly that, and no other."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unipic2_edge.bench.latency.point import Point
from unipic2_edge.bench.latency.run import HOST, ORDER, STEPS, TOTAL, Opened
from unipic2_edge.runtime import pipeline as pipeline_module
from unipic2_edge.runtime.conditioning import TextConditioner
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.runtime.pool import SessionPool
from unipic2_edge.runtime.session import Array, Arrays, Session

pytestmark = pytest.mark.slow
EDIT = Point("b", None, "edit", 64, 64, 3, 3.5)
NAP = 0.05


class Sleepy:
    """A session that naps before it works."""

    def __init__(self, inner: Session, nap: Callable[[], None]) -> None:
        self.graph, self._inner, self._nap = inner.graph, inner, nap

    def run(self, inputs: Arrays) -> dict[str, Array]:
        self._nap()
        return self._inner.run(inputs)

    def close(self) -> None:
        self._inner.close()


class Clock:
    """Time that passes only in naps."""

    def __init__(self) -> None:
        self.now = 100.0

    def nap(self) -> None:
        self.now += NAP

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def inner(tiny_bundle: Path) -> Pipeline:
    return Pipeline.load(tiny_bundle, "cpu", threads=1)


def _opened(inner: Pipeline, graph: str | None, nap: Callable[[], None]) -> Opened:
    def open_one(name: str) -> Session:
        return Sleepy(inner.sessions[name], nap) if name == graph else inner.sessions[name]

    return Opened(Pipeline(inner.bundle, SessionPool(inner.bundle, open_one), inner.placement))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "perf_counter", made)
    return made


@pytest.mark.parametrize(
    ("graph", "stage", "naps"),
    [
        ("text_encoder", "condition", 1),
        ("text_encoder_3", "condition", 1),
        ("vae_encoder", "VAE encode", 1),
        ("modulation", "modulation", 1),
        ("denoiser", STEPS, 3),
        ("vae_decoder", "VAE decode", 1),
    ],
)
def test_a_graph_that_sleeps_shows_in_its_stage_alone(
    inner: Pipeline, clock: Clock, graph: str, stage: str, naps: int
) -> None:
    run = _opened(inner, graph, clock.nap).run(EDIT)
    expected = dict.fromkeys(run.stages, 0.0) | {stage: naps * NAP, TOTAL: naps * NAP}
    assert run.stages == pytest.approx(expected, abs=1e-9)
    assert run.graphs == pytest.approx(dict.fromkeys(run.graphs, 0.0) | {graph: naps * NAP}, abs=1e-9)
    assert run.steps == pytest.approx([NAP if graph == "denoiser" else 0.0] * 3, abs=1e-9)
    assert run.first == pytest.approx(0.0 if graph == "vae_decoder" else NAP, abs=1e-9)
    assert run.waiting == 0.0


def test_tokenising_that_sleeps_shows_there_alone(
    inner: Pipeline, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = TextConditioner.turns

    def slow(self: TextConditioner, *arguments: Any) -> Any:
        clock.nap()
        return turns(self, *arguments)

    monkeypatch.setattr(TextConditioner, "turns", slow)
    run = _opened(inner, None, clock.nap).run(EDIT)
    expected = dict.fromkeys(run.stages, 0.0) | {"tokenise": NAP, TOTAL: NAP}
    assert run.stages == pytest.approx(expected, abs=1e-9)


def test_what_no_stage_explains_is_the_hosts(inner: Pipeline, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    opening = pipeline_module.open_images

    def slow(*arguments: Any) -> Any:
        clock.nap()
        return opening(*arguments)

    monkeypatch.setattr(pipeline_module, "open_images", slow)
    run = _opened(inner, None, clock.nap).run(EDIT)
    assert run.stages == pytest.approx(dict.fromkeys(run.stages, 0.0) | {HOST: NAP, TOTAL: NAP}, abs=1e-9)
    assert run.first == pytest.approx(NAP)  # the user waited for it before the first step, too


def test_opening_within_a_run_is_told(inner: Pipeline) -> None:
    def open_slowly(name: str) -> Session:
        time.sleep(NAP)
        return inner.sessions[name]

    opened = Opened(Pipeline(inner.bundle, SessionPool(inner.bundle, open_slowly, openers=1), inner.placement))
    first, second = opened.run(EDIT), opened.run(EDIT)
    assert NAP < first.waiting < first.total
    assert second.waiting < first.waiting / 2


def test_real_sleep_is_seen_by_real_clocks(inner: Pipeline) -> None:
    """The least of several runs, so that a busy machine does not matter."""
    opened = {graph: _opened(inner, graph, lambda: time.sleep(NAP)) for graph in ("vae_decoder", None)}
    runs = {graph: [one.run(EDIT) for _ in range(6)] for graph, one in opened.items()}
    slept, awake = ({name: min(run.stages[name] for run in made) for name in made[0].stages} for made in runs.values())
    assert NAP <= slept["VAE decode"] - awake["VAE decode"] + 1e-3 < NAP + 0.02
    assert all(abs(slept[name] - awake[name]) < 0.02 for name in slept if name not in ("VAE decode", TOTAL))


def test_stages_add_up_and_every_run_has_new_words(inner: Pipeline) -> None:
    opened = _opened(inner, None, lambda: None)
    runs = [opened.run(EDIT) for _ in range(3)]
    for run in runs:
        assert sum(seconds for name, seconds in run.stages.items() if name != TOTAL) == pytest.approx(run.total)
        assert list(run.stages) == [*ORDER, HOST, TOTAL]
        assert run.graphs["text_encoder"] > 0 and run.made is not None and run.made.size == (64, 64)
    assert len({run.asked for run in runs}) == 3
    made = opened.run(Point("b", None, "generate", 64, 64, 2, 1.0))
    assert "VAE encode" not in made.stages and len(made.steps) == 2


def test_an_answers_stages_are_seeing_the_first_token_and_the_others(metaquery_bundle: Path, clock: Clock) -> None:
    inner = Pipeline.load(metaquery_bundle, "cpu", threads=1)
    point = Point("b", None, "describe", 64, 64, None, None)
    run = _opened(inner, "vision", clock.nap).run(point)
    assert run.stages == pytest.approx(dict.fromkeys(run.stages, 0.0) | {"first token": NAP, TOTAL: NAP}, abs=1e-9)
    assert run.first == pytest.approx(NAP) and run.steps == ()
