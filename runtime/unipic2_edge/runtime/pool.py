"""The sessions of one pipeline: opened when they are first needed, or ahead of it and side by side."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from .bundle import Bundle
from .session import Session

_OPENERS = 4


class SessionPool:
    """Opens each graph of a bundle when it is asked for, and keeps it.

    Opening (hashing, parsing, laying out weights) releases the interpreter's lock, so that the denoiser opens
    while the text encoders already run. Graphs that take turns on the device are the exception: asking for one closes
    the one before it.

    Args:
        bundle: the opened bundle.
        open_session: opens a graph by name.
        turns: graphs that take turns, because the device cannot hold them beside the others; graphs of the same name
            share a turn.
        openers: how many graphs are opened side by side.

    Attributes:
        seconds_waited: for graphs to be opened, by all who asked for one.
    """

    def __init__(
        self,
        bundle: Bundle,
        open_session: Callable[[str], Session],
        turns: Mapping[str, str] | None = None,
        openers: int = _OPENERS,
    ) -> None:
        self.seconds_waited = 0.0
        self.turns: Mapping[str, str] = turns or {}
        self._bundle, self._open_session = bundle, open_session
        self._opening: dict[str, Future[Session]] = {}
        self._lock = threading.Lock()
        self._openers = ThreadPoolExecutor(openers, thread_name_prefix="open-session")

    def open_ahead(self, names: Iterable[str]) -> None:
        """Start opening graphs; the ones first named start first, and those that take turns wait for theirs.

        Raises:
            BundleError: the bundle lacks one of them; then none is started.
        """
        wanted = list(names)
        for name in wanted:
            self._bundle.graph(name)
        for name in wanted:
            if name not in self.turns:
                self._future(name)

    def __getitem__(self, name: str) -> Session:
        """The opened session of a graph; waits for it.

        Raises:
            BundleError, MissingDependencyError, WorkError: as the opening of sessions.
        """
        if name in self.turns:
            self.close([other for other, turn in self.turns.items() if turn != self.turns[name]])
        start, future = time.perf_counter(), self._future(name)
        try:
            return future.result()
        except BaseException:
            with self._lock:  # let the next call try again, after the user has mended it
                if self._opening.get(name) is future:
                    del self._opening[name]
            raise
        finally:
            self.seconds_waited += time.perf_counter() - start

    def take_turns(self, turns: Mapping[str, str]) -> None:
        """Close everything; from now on these graphs take turns, and no others."""
        self.close()
        self.turns = turns

    def close(self, names: Iterable[str] | None = None) -> None:
        """Close sessions, by default all; what is asked for again is opened again."""
        with self._lock:
            wanted = list(self._opening) if names is None else [name for name in names if name in self._opening]
            futures = [self._opening.pop(name) for name in wanted]
        for future in futures:
            if not future.cancel() and future.exception() is None:
                future.result().close()

    def _future(self, name: str) -> Future[Session]:
        with self._lock:
            if name not in self._opening:
                self._opening[name] = self._openers.submit(self._open_session, name)
            return self._opening[name]
