"""Jobs: a request on its way from the queue to its pictures, and the table of those that are known."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from PIL import Image

from ..answer import Answer
from ..settings import Task
from .messages import Format, State
from .problems import ApiError, cancelled


class Wish(Protocol):
    """What a job is about: pictures (`Work`) or words (`Talk`)."""

    @property
    def shape(self) -> tuple[object, ...]:
        """Wishes of the same shape can be met in one batch."""
        ...

    @property
    def count(self) -> int:
        """How much of a batch it takes."""
        ...


_Wish = TypeVar("_Wish", bound=Wish)


@dataclass(frozen=True)
class Work:
    """What a job makes, checked: `len(seeds)` pictures of one prompt.

    `partial_images` previews are made on the way.
    """

    task: Task
    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance: float
    seeds: tuple[int, ...]
    picture: Image.Image | None = None
    output_format: Format = "png"
    compression: int = 90
    partial_images: int = 0

    @property
    def shape(self) -> tuple[object, ...]:
        """Works of the same shape can be done in one batch."""
        return self.task, self.width, self.height, self.steps, self.guidance

    @property
    def count(self) -> int:
        """The number of pictures."""
        return len(self.seeds)

    def preview_at(self, step: int) -> int | None:
        """The number of the preview that is due after a step (from 1), spread evenly; None when there is none."""
        for index in range(self.partial_images):
            if step == max(1, (index + 1) * self.steps // (self.partial_images + 1)) and step < self.steps:
                return index
        return None


@dataclass(frozen=True)
class Talk:
    """An answer in words, checked; answers are given one after another."""

    question: str
    pictures: tuple[Image.Image, ...] = ()
    system: str | None = None
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    @property
    def shape(self) -> tuple[object, ...]:
        """Like no other's."""
        return "describe", id(self)

    @property
    def count(self) -> int:
        """It has the device alone."""
        return 1


@dataclass(frozen=True)
class Update:
    """Something that happened to a job: "step", "partial" (with a picture), "words" (with text) or "finished"."""

    kind: str
    picture: bytes | None = None
    index: int = 0
    text: str = ""


@dataclass
class Job(Generic[_Wish]):
    """One request's work and where it stands.

    Attributes:
        work: what is to be made.
        deadline: by `time.monotonic`.
        listener: called from any thread with what happens.
    """

    work: _Wish
    deadline: float
    listener: Callable[[Update], None] = lambda update: None
    id: str = field(default_factory=lambda: f"job-{secrets.token_hex(12)}")
    created: float = field(default_factory=time.time)
    state: State = "queued"
    step: int = 0
    pictures: tuple[bytes, ...] = ()
    answer: Answer | None = None
    problem: ApiError | None = None
    started: float | None = None  # by time.monotonic
    ended: float | None = None  # by time.monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def over(self) -> bool:
        """Whether nothing will happen to it any more."""
        return self.state in ("succeeded", "failed", "cancelled")

    @property
    def unwanted(self) -> bool:
        """Whether nobody waits for it any more: it is over, or too late."""
        return self.over or time.monotonic() > self.deadline

    @property
    def seconds(self) -> float:
        """From the start of the work to its end."""
        return 0.0 if self.started is None or self.ended is None else self.ended - self.started

    def start(self) -> bool:
        """The worker takes it; false when it was cancelled meanwhile."""
        with self._lock:
            if self.over:
                return False
            self.state, self.started = "running", time.monotonic()
            return True

    def advance(self, step: int) -> None:
        """A step is done."""
        self.step = step
        self.listener(Update("step"))

    def preview(self, picture: bytes, index: int) -> None:
        """A preview was made."""
        self.listener(Update("partial", picture, index))

    def say(self, text: str) -> None:
        """Some words of the answer are there."""
        self.listener(Update("words", text=text))

    def succeed(self, pictures: tuple[bytes, ...]) -> None:
        """The pictures are there."""
        self._end("succeeded", pictures, None)

    def fail(self, problem: ApiError) -> None:
        """It cannot be done."""
        self._end("failed", (), problem)

    def cancel(self) -> None:
        """Nobody wants it any more; a batch of which that is true is stopped after its step."""
        self._end("cancelled", (), cancelled())

    def _end(self, state: State, pictures: tuple[bytes, ...], problem: ApiError | None) -> None:
        """The first end counts."""
        with self._lock:
            if self.over:
                return
            self.state, self.pictures, self.problem, self.ended = state, pictures, problem, time.monotonic()
        self.listener(Update("finished"))


class JobTable:
    """Jobs by id; finished ones are forgotten after a while.

    Args:
        kept_seconds: how long finished jobs are kept.
        kept_jobs: how many of them, at most.
    """

    def __init__(self, kept_seconds: float, kept_jobs: int) -> None:
        self._kept_seconds, self._kept_jobs = kept_seconds, kept_jobs
        self._jobs: dict[str, Job[Work]] = {}
        self._lock = threading.Lock()

    def add(self, job: Job[Work]) -> None:
        """Remember a job."""
        with self._lock:
            self._forget()
            self._jobs[job.id] = job

    def get(self, name: str) -> Job[Work]:
        """A job by its id.

        Raises:
            ApiError: there is none of that id, or it was forgotten.
        """
        with self._lock:
            self._forget()
            if name not in self._jobs:
                raise ApiError(404, "no_such_job", f"there is no job {name[:60]!r}; finished ones are forgotten", "id")
            return self._jobs[name]

    def drop(self, job: Job[Any]) -> None:
        """Forget a job at once."""
        with self._lock:
            self._jobs.pop(job.id, None)

    def all(self) -> list[Job[Work]]:
        """Every job that is known, the oldest first."""
        with self._lock:
            self._forget()
            return list(self._jobs.values())

    def _forget(self) -> None:
        now = time.monotonic()
        ended = [job for job in self._jobs.values() if job.ended is not None]
        kept = sorted(ended, key=lambda job: job.ended or 0.0)[-self._kept_jobs :]
        for job in ended:
            if job not in kept or now - (job.ended or now) > self._kept_seconds:
                del self._jobs[job.id]
