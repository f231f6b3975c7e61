"""What the endpoints share: the bundle's manifest, the queue, the jobs, the worker and the figures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from ..bundle import Manifest
from .backlog import Backlog
from .jobs import Job, JobTable, Talk, Update, Work
from .limits import Limits
from .metrics import Metrics
from .pictures import Pictures
from .problems import stopping
from .worker import Worker

_DECODERS = 2  # pictures of requests that are decoded side by side; each may unpack to 50 MB
_ROUGHLY = 0.3  # the weight of the newest batch in the average


@dataclass
class State:
    """A running server.

    Attributes:
        manifest: of the bundle.
        load: makes the pipeline.
        limits: of requests.
    """

    manifest: Manifest
    load: Callable[[], Pictures]
    limits: Limits = field(default_factory=Limits)
    created: int = field(default_factory=lambda: int(time.time()))
    draining: bool = False
    drained_by: float | None = None  # by time.monotonic
    step_seconds: float | None = None

    def __post_init__(self) -> None:
        self.decoders = anyio.CapacityLimiter(_DECODERS)
        self.backlog = Backlog(self.limits.waiting)
        self.jobs = JobTable(self.limits.kept_seconds, self.limits.kept_jobs)
        self.metrics = Metrics(lambda: float(len(self.backlog)))
        self.worker = Worker(self.load, self.backlog, self.limits.batch, self.metrics)

    @property
    def ready(self) -> bool:
        """Whether requests are taken and there is a device for them."""
        return not self.draining and self.worker.ready

    def drain(self) -> None:
        """Take nothing new; what is there has the limit's seconds from now."""
        self.draining = True
        if self.drained_by is None:
            self.drained_by = time.monotonic() + self.limits.drain_seconds

    @property
    def drain_seconds_left(self) -> float:
        """Until what is there is given up."""
        self.drain()
        return max(0.0, (self.drained_by or 0.0) - time.monotonic())

    def submit(self, work: Work, listener: Callable[[Update], None] = lambda update: None) -> Job[Work]:
        """Let a work wait for the device; its job can be asked for from then on.

        Raises:
            ApiError: the queue is full, or the server stops.
        """
        if self.draining:
            raise stopping()
        job: Job[Work] = Job(
            work, time.monotonic() + self.limits.seconds, lambda update: self._note(job, update, listener)
        )
        self.backlog.put(job, max(1, round(self._expected(len(self.backlog), work))))
        self.jobs.add(job)
        return job

    def ask(self, talk: Talk, listener: Callable[[Update], None]) -> Job[Talk]:
        """Let a question wait for the device.

        Raises:
            ApiError: the queue is full, or the server stops.
        """
        if self.draining:
            raise stopping()
        job = Job(talk, time.monotonic() + self.limits.seconds, listener)
        self.backlog.put(job)
        return job

    def eta(self, job: Job[Work]) -> float | None:
        """Seconds until a job is probably done; None when it is over or nothing is known yet."""
        if self.step_seconds is None or job.over:
            return None
        position = self.backlog.position(job)
        left = job.work.steps - job.step
        return self.step_seconds * left if position is None else self._expected(position, job.work)

    def _expected(self, before: int, work: Work) -> float:
        """Seconds of its own batch, and of as many like it as those before it fill; what runs now is the first."""
        batches = 1 + before // self.worker.batch + bool(self.worker.busy)
        return (self.step_seconds or 0.0) * work.steps * batches

    def _note(self, job: Job[Work], update: Update, listener: Callable[[Update], None]) -> None:
        if update.kind == "finished" and job.state == "succeeded":
            mine = job.seconds / job.work.steps
            self.step_seconds = (
                mine if self.step_seconds is None else (_ROUGHLY * mine + (1 - _ROUGHLY) * self.step_seconds)
            )
        listener(update)
