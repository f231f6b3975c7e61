"""`bench compare`: peers side by side in one run, turn about, with what they agree in beside every ratio.

Every peer does the same jobs. The order rotates from turn to turn, so that none always runs in another's wake, and a
machine that is busy for a while is busy for all. A ratio is of two peers' seconds on the same job.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .peers.doors import Door, Entrant
from .peers.peer import CannotError, Job, Made, Pixels
from .statistics import Spread, ratios, spread

#: Latents whose relative error is above this, or pictures whose PSNR in dB is below, are of another picture: those of
#: two seeds differ by about 1, and what is no picture at all by √2.
OTHER_ERROR, OTHER_PSNR = 0.5, 12.0

OpenDoor = Callable[[Entrant], Door]


@dataclass
class Row:
    """What one peer did in one task.

    Attributes:
        entrant: the peer.
        seconds: by job.
        made: by job.
        reason: why it did not take part, or stopped.
        about: what it says of itself.
        load_seconds: that opening it took.
        first_seconds: of its first job, in which compilers compile.
        resident_bytes: of its process, the most that was seen after a job.
    """

    entrant: Entrant
    seconds: dict[int, float] = field(default_factory=dict)
    made: dict[int, Made] = field(default_factory=dict)
    reason: str | None = None
    about: dict[str, str] = field(default_factory=dict)
    load_seconds: float | None = None
    first_seconds: float | None = None
    resident_bytes: int | None = None


@dataclass(frozen=True)
class Agreement:
    """How far a peer is from the reference: the largest ‖a − b‖/‖b‖ of latents or velocities, the smallest PSNR in dB.

    Infinite PSNR is that of equal pixels; none stands for what one of both does not give away.
    """

    error: float | None
    psnr: float | None

    @property
    def same(self) -> bool | None:
        """Whether it is the same picture; none where nothing could be compared. NaN is another one."""
        if self.error is None and self.psnr is None:
            return None
        return (self.error is None or self.error <= OTHER_ERROR) and (self.psnr is None or self.psnr >= OTHER_PSNR)


def measure(
    entrants: Sequence[Entrant],
    tasks: Mapping[str, Sequence[Job]],
    open_door: OpenDoor,
    repeats: int | None = None,
    done: Callable[[str], None] = lambda name: None,
) -> dict[str, list[Row]]:
    """Every entrant's row in every task.

    Args:
        entrants: in the order in which they stand in tables.
        tasks: jobs by task; the first of each warms a peer up and is not timed.
        open_door: opens an entrant.
        repeats: a peer does so many jobs in its turn and then leaves memory, so that one alone stands in it at a
            time; with none all stay open, and a turn is one job.
        done: called with a peer's name after each of its turns.
    """
    hall, rows = _Hall(open_door, alone=repeats is not None), {}
    try:
        for task, jobs in tasks.items():
            rows[task] = [Row(entrant) for entrant in entrants]
            size = repeats or 1
            turns = [range(start, min(start + size, len(jobs))) for start in range(1, len(jobs), size)]
            for index, turn in enumerate(turns):
                for row in rotated(rows[task], index):
                    _take_turn(hall, row, jobs, turn)
                    done(row.entrant.name)
    finally:
        hall.close()
    return rows


def rotated(rows: Sequence[Row], turn: int) -> list[Row]:
    """The order of a turn: another one begins each time, and every second time they go backwards."""
    start = turn % len(rows)
    order = [*rows[start:], *rows[:start]]
    return order[::-1] if turn // len(rows) % 2 else order


def _take_turn(hall: _Hall, row: Row, jobs: Sequence[Job], turn: range) -> None:
    """Do the jobs of a turn; a peer that fails once is not asked again."""
    if row.reason is not None:
        return
    try:
        door = hall.enter(row, jobs[0])
        for index in turn:
            row.made[index], row.seconds[index] = door.make(jobs[index])
            row.resident_bytes = max(row.resident_bytes or 0, door.resident() or 0) or None
    except CannotError as error:
        row.reason = str(error)


class _Hall:
    """The doors that are open.

    Args:
        open_door: opens one.
        alone: whether one is closed before the next is opened.
    """

    def __init__(self, open_door: OpenDoor, alone: bool) -> None:
        self._open, self._alone = open_door, alone
        self._doors: dict[str, Door] = {}
        self._cannot: dict[str, str] = {}
        self._warm: set[tuple[str, str]] = set()

    def enter(self, row: Row, first: Job) -> Door:
        """An entrant's door, open and warm.

        Raises:
            CannotError: why not.
        """
        name = row.entrant.name
        if name in self._cannot:
            raise CannotError(self._cannot[name])
        if name not in self._doors:
            if self._alone:
                self.close()
            try:
                self._doors[name] = self._open(row.entrant)
            except CannotError as error:
                self._cannot[name] = str(error)
                raise
        door = self._doors[name]
        row.about = door.about
        row.load_seconds = row.load_seconds or door.seconds
        if (name, first.task) not in self._warm:
            _, seconds = door.make(first)
            row.first_seconds = row.first_seconds or seconds
            self._warm.add((name, first.task))
        return door

    def close(self) -> None:
        """Close all doors."""
        for door in self._doors.values():
            door.close()
        self._doors.clear()
        self._warm.clear()


def reference_of(rows: Sequence[Row]) -> Row | None:
    """What the others are compared with: the first that did all its jobs."""
    return next((row for row in rows if row.reason is None), None)


def agreement(row: Row, reference: Row) -> Agreement:
    """How far a peer's work is from the reference's, over the jobs that both did."""
    pairs = [(made, reference.made[index]) for index, made in row.made.items() if index in reference.made]
    errors = [
        float(np.linalg.norm(made.latents - exact.latents) / np.linalg.norm(exact.latents))
        for made, exact in pairs
        if made.latents is not None and exact.latents is not None
    ]
    qualities = [
        psnr(made.picture, exact.picture)
        for made, exact in pairs
        if made.picture is not None and exact.picture is not None
    ]
    # numpy's, for which NaN is the largest and the smallest.
    return Agreement(
        float(np.max(errors)) if errors else None,
        float(np.min(qualities)) if qualities else None,
    )


def speed(row: Row, reference: Row) -> Spread | None:
    """How many times the reference's speed a peer has, job by job; none without a job that both did."""
    both = [index for index in row.seconds if index in reference.seconds]
    if not both:
        return None
    return ratios([reference.seconds[index] for index in both], [row.seconds[index] for index in both])


def taken(row: Row) -> Spread | None:
    """The spread of a peer's seconds, where it has any."""
    return spread(list(row.seconds.values())) if row.seconds else None


def psnr(picture: Pixels, reference: Pixels) -> float:
    """Peak signal-to-noise ratio of 8-bit pictures, in dB."""
    error = float(np.mean((picture.astype(np.float64) - reference.astype(np.float64)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
