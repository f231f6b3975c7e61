"""Comparisons of stand-ins on a clock that they move themselves: turns, ratios, agreement, reasons."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from unipic2_edge.bench.compare import Row, agreement, measure, reference_of, rotated, speed, taken
from unipic2_edge.bench.comparison import comparison_lines, comparison_record
from unipic2_edge.bench.peers.doors import Door, Entrant, InsideDoor
from unipic2_edge.bench.peers.peer import CannotError, Job, Made, Peer


class Clock:
    """Time that stands still until a peer works."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Worker(Peer):
    """Takes so many seconds, or as many as there are; `mood` slows down all of them alike."""

    def __init__(
        self, clock: Clock, seconds: float, change: Callable[[np.ndarray], np.ndarray], mood: list[float]
    ) -> None:
        self.clock, self.seconds, self.change, self.mood = clock, seconds, change, mood

    def make(self, job: Job) -> Made:
        self.clock.now += self.seconds * self.mood[job.seed]
        if job.task == "edit":
            raise CannotError("edit: it has none")
        latents = self.change(job.latents)
        return Made(latents, np.clip(128 + 40 * latents[0, :3], 0, 255).astype(np.uint8).transpose(1, 2, 0))


JOBS = [
    Job("generate", np.random.default_rng(index).standard_normal((1, 4, 8, 8), dtype=np.float32), seed=index)
    for index in range(5)
]
MOOD = [9.0, 1.0, 3.0, 1.0, 2.0]


def _run(
    seconds: dict[str, float], repeats: int | None = None, **changes: Callable[[np.ndarray], np.ndarray]
) -> dict[str, Row]:
    clock = Clock()

    def open_door(entrant: Entrant) -> Door:
        name = entrant.name
        if seconds[name] < 0:
            raise CannotError("it is not installed")
        return InsideDoor(Worker(clock, seconds[name], changes.get(name, lambda latents: latents), MOOD), 0.5)

    rows = measure([Entrant(name, "none") for name in seconds], {"generate": JOBS}, open_door, repeats)
    return {row.entrant.name: row for row in rows["generate"]}


@pytest.mark.parametrize("repeats", [None, 1, 3])
def test_ratios_are_exact_on_a_machine_of_moods(repeats: int | None) -> None:
    rows = _run({"first": 1.0, "same": 1.0, "slow": 1.5}, repeats)
    for name, wanted in (("same", 1.0), ("slow", 1 / 1.5)):
        ratio = speed(rows[name], rows["first"])
        assert ratio is not None
        assert (ratio.least, ratio.most, ratio.count) == (pytest.approx(wanted), pytest.approx(wanted), 4)
    assert rows["slow"].seconds == {1: 1.5, 2: 4.5, 3: 1.5, 4: 3.0}  # the first job warms up
    assert rows["slow"].first_seconds == 13.5 and rows["slow"].load_seconds == 0.5


def test_every_peer_is_first_as_often_as_last() -> None:
    rows = [Row(Entrant(name, "none")) for name in "abc"]
    orders = ["".join(row.entrant.name for row in rotated(rows, turn)) for turn in range(6)]
    assert orders == ["abc", "bca", "cab", "cba", "acb", "bac"]


def test_one_at_a_time_closes_before_it_opens() -> None:
    events: list[str] = []

    class Watched(InsideDoor):
        def __init__(self, name: str) -> None:
            super().__init__(Worker(Clock(), 1.0, lambda latents: latents, MOOD))
            self.name = name
            events.append(f"+{name}")

        def close(self) -> None:
            events.append(f"-{self.name}")

    entrants = [Entrant(name, "none") for name in "ab"]
    rows = measure(entrants, {"generate": JOBS}, lambda entrant: Watched(entrant.name), repeats=2)
    assert events == ["+a", "-a", "+b", "-b", "+a", "-a"]  # b begins the second turn, and stands already
    assert all(len(row.seconds) == 4 for row in rows["generate"])


def test_a_wrong_peer_is_never_faster() -> None:
    noise = np.random.default_rng(9).standard_normal((1, 4, 8, 8), dtype=np.float32)
    rows = _run(
        {"right": 1.0, "close": 0.9, "wrong": 0.1, "broken": 0.1},
        close=lambda latents: latents * 1.01,
        wrong=lambda latents: noise,
        broken=lambda latents: latents * np.float32("nan"),
    )
    assert agreement(rows["close"], rows["right"]).same is True
    assert agreement(rows["close"], rows["right"]).error == pytest.approx(0.01, rel=1e-3)
    lines = comparison_lines({"generate": list(rows.values())})
    for name in ("wrong", "broken"):
        assert agreement(rows[name], rows["right"]).same is False
        assert "another picture; no ratio" in next(line for line in lines if line.startswith(f"| {name} "))
    assert "1.11 (1.11–1.11)" in next(line for line in lines if line.startswith("| close "))


def test_a_peer_without_latents_is_judged_by_its_pictures() -> None:
    rows = _run({"right": 1.0, "other": 1.0})
    for index, made in rows["other"].made.items():
        rows["other"].made[index] = Made(None, made.picture)
    found = agreement(rows["other"], rows["right"])
    assert found.error is None and found.psnr == float("inf") and found.same
    for index in rows["other"].made:
        rows["other"].made[index] = Made()
    assert agreement(rows["other"], rows["right"]).same is None


def test_who_cannot_is_told_and_the_others_go_on() -> None:
    rows = _run({"absent": -1.0, "first": 1.0, "second": 2.0})
    assert rows["absent"].reason == "it is not installed" and taken(rows["absent"]) is None
    reference = reference_of(list(rows.values()))
    assert reference is rows["first"]
    record = comparison_record({"generate": list(rows.values())})["generate"]
    assert isinstance(record, dict) and record["reference"] == "first"
    absent, _, second = record["rows"]
    assert absent["seconds"] is None and absent["samples"] == []
    assert second["speedup"]["median"] == 0.5 and second["same"] is True and second["psnr_db"] == "identical"
