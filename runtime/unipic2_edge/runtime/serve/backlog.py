"""The queue before the device: bounded, first come first served, with those of the same shape taken together."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from .jobs import Job
from .problems import ApiError, too_late


class Backlog:
    """Jobs that wait for the device.

    Args:
        limit: how many may wait.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._jobs: deque[Job[Any]] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, job: Job[Any], retry_after: int = 1) -> None:
        """Let a job wait.

        Raises:
            ApiError: too many do.
        """
        with self._changed:
            self._drop_unwanted()
            if len(self._jobs) >= self._limit:
                raise ApiError(
                    429, "queue_full", f"{self._limit} requests wait already (try again later)", retry_after=retry_after
                )
            self._jobs.append(job)
            self._changed.notify()

    def take(self, pictures: int) -> list[Job[Any]] | None:
        """The job that waits longest, and others of its shape up to so many pictures; waits for one.

        Returns:
            None when the queue was closed and is empty.
        """
        with self._changed:
            while True:
                self._drop_unwanted()
                if self._jobs:
                    return self._batch(pictures)
                if self._closed:
                    return None
                self._changed.wait(1.0)  # so that deadlines are seen

    def position(self, job: Job[Any]) -> int | None:
        """How many jobs are before it; None when it does not wait."""
        with self._changed:
            for index, other in enumerate(self._jobs):
                if other is job:
                    return index
        return None

    def close(self) -> None:
        """Let nobody wait any longer: `take` returns None once it is empty."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _batch(self, pictures: int) -> list[Job[Any]]:
        first = self._jobs.popleft()
        batch, count = [first], first.work.count
        for job in list(self._jobs):
            if job.work.shape == first.work.shape and count + job.work.count <= pictures:
                self._jobs.remove(job)
                batch.append(job)
                count += job.work.count
        return batch

    def _drop_unwanted(self) -> None:
        now = time.monotonic()
        for job in [job for job in self._jobs if job.unwanted]:
            self._jobs.remove(job)
            if now > job.deadline:
                job.fail(too_late())
