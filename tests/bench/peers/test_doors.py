"""Both doors to a peer: the same work, the same seconds, and a reason wherever there is no work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import numpy as np
import pytest

from unipic2_edge.bench.compare import agreement, measure, speed, taken
from unipic2_edge.bench.peers.doors import Door, Entrant, ProcessDoor, open_inside
from unipic2_edge.bench.peers.peer import CannotError, Job

MakeEntrant = Callable[..., Entrant]
OpenDoor = Callable[..., ProcessDoor]


@pytest.fixture
def opened() -> Iterator[OpenDoor]:
    """Opens doors to processes, and closes them when the test is over."""
    with ExitStack() as doors:
        yield lambda *words, **options: doors.enter_context(closing(ProcessDoor(*words, **options)))


def test_one_peer_through_both_doors_has_a_ratio_of_one(entrant: MakeEntrant, jobs: list[Job]) -> None:
    inside, outside, late = entrant("inside", work=0.1), entrant("outside", work=0.1), entrant("late", work=0.15)

    def open_door(one: Entrant) -> Door:
        return open_inside(one) if one.name == "inside" else ProcessDoor(one)

    found = measure([inside, outside, late], {"generate": jobs}, open_door)["generate"]
    rows = {row.entrant.name: row for row in found}
    reference, ratio = rows["inside"], speed(rows["outside"], rows["inside"])
    assert ratio is not None and (ratio.least, ratio.most) == (pytest.approx(1, abs=0.03), pytest.approx(1, abs=0.03))
    assert agreement(rows["outside"], reference).error == 0
    first, last = taken(reference), taken(rows["late"])
    assert first is not None and last is not None
    assert last.median - first.median == pytest.approx(0.05, abs=1e-6)
    assert (rows["outside"].resident_bytes or 0) > 1e6 and reference.resident_bytes is None


@pytest.mark.parametrize("through", [open_inside, ProcessDoor])
def test_a_peer_that_sleeps_takes_as_long_by_the_usual_clock(
    through: Callable[[Entrant], Door], entrant: MakeEntrant, jobs: list[Job]
) -> None:
    with closing(through(entrant(sleep=0.05))) as door:
        taken_each = [door.make(job)[1] for job in jobs]
    assert min(taken_each) >= 0.05
    assert min(taken_each) < 0.5  # a busy machine wakes it late, and hardly so each time


def test_a_process_gets_the_job_and_gives_back_what_it_made(
    entrant: MakeEntrant, opened: OpenDoor, jobs: list[Job]
) -> None:
    door = opened(entrant(scale=2))
    made, seconds = door.make(jobs[0])
    assert door.about == {"threads": "1"}
    assert made.latents is not None and np.array_equal(made.latents, 2 * jobs[0].latents)
    assert made.picture is not None and made.picture.dtype == np.uint8
    assert 0 < seconds < 5


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raises", r"^ValueError: no such shape$"),
        ("does not load", r"^ImportError: no library here$"),
        ("dies", "died with 7"),
    ],
)
def test_what_goes_wrong_in_a_process_is_a_reason(
    fault: str, said: str, entrant: MakeEntrant, opened: OpenDoor, jobs: list[Job]
) -> None:
    with pytest.raises(CannotError, match=said):
        opened(entrant(fault=fault)).make(jobs[0])


def test_a_peer_that_hangs_is_killed(entrant: MakeEntrant, opened: OpenDoor, jobs: list[Job]) -> None:
    door = opened(entrant(fault="hangs"), patience=20)
    door.patience = 0.5
    with pytest.raises(CannotError, match=r"gave no answer in 0\.5 s"):
        door.make(jobs[0])


def test_what_goes_wrong_inside_is_a_reason_too(entrant: MakeEntrant, jobs: list[Job]) -> None:
    with pytest.raises(CannotError, match=r"^ImportError: no library here$"):
        open_inside(entrant(fault="does not load"))
    with pytest.raises(CannotError, match=r"^ValueError: no such shape$"):
        open_inside(entrant(fault="raises")).make(jobs[0])


def test_an_interpreter_that_is_none_is_a_reason() -> None:
    with pytest.raises(CannotError, match="cannot be started"):
        ProcessDoor(Entrant("optimum", "unipic2_edge.bench.peers.optimum_peer", {}, python="/no/such/python"))
