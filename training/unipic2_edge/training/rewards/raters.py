"""Rewards that run beside the sampling: in threads, each attempt with a deadline, failed ones tried again."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

from ..errors import SuspendedWorkError, UserError
from .reward import Asked, Picture, Rating, Reward, rated

_FIRST_PAUSE = 1.0  # seconds before the second attempt; doubled before each further one


class Raters:
    """Runs a reward in the background.

    Args:
        reward: called from `workers` threads at once.
        workers: batches that are rated at the same time.
        timeout: seconds for one attempt, once it runs.
        retries: further attempts after a failed one.
    """

    def __init__(self, reward: Reward, workers: int = 1, timeout: float = 60.0, retries: int = 2) -> None:
        self.reward, self.timeout, self.retries = reward, timeout, retries
        self._slots = threading.Semaphore(workers)

    def submit(self, asked: Sequence[Asked], pictures: Sequence[Picture]) -> Pending:
        """Begin to rate a batch; returns at once."""
        return Pending(self, asked, pictures)

    def attempt(self, asked: Sequence[Asked], pictures: Sequence[Picture]) -> Future[list[Rating]]:
        """One attempt, in a thread that does not keep the process alive: a call that hangs cannot be ended."""
        future: Future[list[Rating]] = Future()
        threading.Thread(target=self._run, args=(future, asked, pictures), daemon=True).start()
        return future

    def _run(self, future: Future[list[Rating]], asked: Sequence[Asked], pictures: Sequence[Picture]) -> None:
        with self._slots:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(rated(self.reward, asked, pictures))
            except BaseException as error:  # it is raised where the result is asked for
                future.set_exception(error)


class Pending:
    """A batch that is being rated."""

    def __init__(self, raters: Raters, asked: Sequence[Asked], pictures: Sequence[Picture]) -> None:
        self._raters, self._asked, self._pictures = raters, asked, pictures
        self._future = raters.attempt(asked, pictures)

    def result(self) -> list[Rating]:
        """The ratings, waited for.

        Raises:
            UserError: what the reward itself raised of this kind, a `RewardError` among them.
            SuspendedWorkError: every attempt failed or took too long.
        """
        pause = _FIRST_PAUSE
        for left in range(self._raters.retries, -1, -1):
            try:
                return self._future.result(self._raters.timeout)
            except UserError:
                raise
            except FutureTimeoutError:
                problem = f"did not answer within {self._raters.timeout:g} s"
            except Exception as error:
                problem = f"failed: {type(error).__name__}: {error}"
            if left:
                self._future.cancel()
                time.sleep(pause)
                pause *= 2
                self._future = self._raters.attempt(self._asked, self._pictures)
        raise SuspendedWorkError(
            f"reward {self._raters.reward.name} {problem}, {self._raters.retries + 1} times",
            "bring it back and give the same command: training goes on from the state that is saved",
        )
