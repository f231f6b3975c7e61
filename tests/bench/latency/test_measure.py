"""Sweeps: their points, turns, when a point has enough, and points that cannot be run."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from unipic2_edge.bench.latency import measure as module
from unipic2_edge.bench.latency.measure import Load, Settings, measure
from unipic2_edge.bench.latency.point import Point, Sweep
from unipic2_edge.bench.latency.record import latency_lines, point_record
from unipic2_edge.bench.latency.run import HOST, STEPS, TOTAL, Run
from unipic2_edge.bench.timed_requests import caption, edit_request, picture
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.errors import RequestError, WorkError

A, B = (Point(name, None, "generate", 64, 64, 2, 1.0) for name in "ab")


class Fake:
    """An opened bundle whose runs take so long, and that notes who ran when."""

    def __init__(self, label: str, seconds: float, log: list[str]) -> None:
        self.inner, self._label, self._seconds, self._log = self, label, seconds, log

    def close(self) -> None:
        self._log.append(f"close {self._label}")

    def run(self, point: Point) -> Run:
        self._log.append(self._label)
        if self._seconds < 0:
            raise RequestError("too large", "build for it")
        stages = {STEPS: self._seconds, HOST: 0.0, TOTAL: self._seconds}
        return Run(stages, (self._seconds / 2,) * 2, self._seconds / 2, graphs={"denoiser": self._seconds / 4})


def _measured(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float], **changes: Any) -> tuple[list[str], Any]:
    log: list[str] = []

    def opened(label: str, memory: str | None, folder: Path, settings: Settings) -> tuple[Load, Fake]:
        return Load(label, memory, 0.5, {"denoiser": 1.0}, {}), Fake(label, seconds[label], log)

    monkeypatch.setattr(module, "open_bundle", opened)
    defaults = {"device": "cpu", "threads": 1, "warm_up": 1, "runs": 6, "seconds": 60.0, "apart": False}
    settings = Settings(**{**defaults, **changes})
    _, timed = measure({"a": Path("a"), "b": Path("b")}, [A, B], settings)
    return log, timed


def test_points_take_turns_and_none_always_follows_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    log, timed = _measured(monkeypatch, {"a": 1.0, "b": 1.0})
    assert log[:2] == ["a", "b"]  # warm-up
    assert log[2:14] == ["a", "b", "b", "a"] * 3
    assert [len(one.runs) for one in timed] == [6, 6]


def test_apart_means_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    log, _ = _measured(monkeypatch, {"a": 1.0, "b": 1.0}, apart=True)
    assert log == ["a"] * 7 + ["close a"] + ["b"] * 7 + ["close b"]


def test_slow_points_have_enough_after_their_seconds_but_not_before_five_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    _, (slow, fast) = _measured(monkeypatch, {"a": 30.0, "b": 0.1}, runs=8)
    assert (len(slow.runs), len(fast.runs)) == (5, 8)


def test_a_point_that_cannot_be_run_says_why_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    _, timed = _measured(monkeypatch, {"a": -1.0, "b": 1.0})
    records = [point_record(one) for one in timed]
    assert records[0]["refused"] == "too large (build for it)" and "stages" not in records[0]
    lines = latency_lines(records)
    assert any("not run: too large" in line for line in lines)
    with pytest.raises(WorkError, match="too large"):
        _measured(monkeypatch, {"a": -1.0, "b": -1.0})


def test_a_record_holds_percentiles_steps_and_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    _, (one, _) = _measured(monkeypatch, {"a": 1.0, "b": 1.0})
    record = point_record(one)
    assert record["stages"][TOTAL] == {
        "p50": 1.0, "p90": 1.0, "p99": 1.0, "mean": 1.0, "stdev": 0.0, "low": 1.0, "high": 1.0, "count": 6,
    }  # fmt: skip
    assert record["step"]["count"] == 12 and record["step_medians"] == [0.5, 0.5]
    assert record["outside_graphs"]["p50"] == 0.75 and record["samples"] == [1.0] * 6
    assert record["first_run"] == 1.0


@pytest.mark.slow
def test_a_sweep_is_every_combination(tiny_bundle: Path) -> None:
    manifest = Bundle(tiny_bundle).manifest
    sweep = Sweep(("generate", "edit"), ("64x64", "96x64"), (4, 2), ("8GB", "4GB"))
    points = sweep.points({"x": manifest, "y": manifest})
    assert len(points) == len({point.name for point in points}) == 2 * 2 * 2 * 2 * 2
    assert points[0].name == "x, generate 64x64, 4 steps, 8GB"
    assert [point.task for point in Sweep().points({"x": manifest})] == ["generate", "edit"]
    for wrong, said in [
        (Sweep(("fly",)), "no task 'fly'"), (Sweep(("describe",)), "cannot describe"),
        (Sweep(steps=(0,)), "0 steps"), (Sweep(sizes=("wide",)), "is not WxH"),
    ]:  # fmt: skip
        with pytest.raises(RequestError, match=said):
            wrong.points({"x": manifest})


def test_requests_differ_in_words_of_one_length_and_in_pictures() -> None:
    captions = [caption(number) for number in range(1190)]
    assert len(set(captions)) == 1190 and {len(text.split()) for text in captions} == {7}
    edits = [edit_request(number, (32, 32)) for number in range(210)]
    assert len({words for _, words in edits}) == 210 and {len(words.split()) for _, words in edits} == {9}
    assert len({picture(number, (32, 32)).tobytes() for number in range(40)}) == 40
    assert all(a != b for a, b in itertools.pairwise(captions))
