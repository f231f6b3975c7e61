"""The sessions of one pipeline: opened when they are first needed, or ahead of it and side by side."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from .bundle import Bundle
from .session import Session, check_device, open_session

_OPENERS = 4


class SessionPool:
    """Opens each graph of a bundle at most once.

    Opening (hashing, parsing, laying out weights) releases the interpreter's lock, so that the denoiser opens
    while the text encoders already run.

    Args:
        bundle: the opened bundle.
        device: "auto" or "cpu".
        threads: threads of each session; None lets the backend choose.

    Raises:
        RequestError: no such device.
    """

    def __init__(self, bundle: Bundle, device: str, threads: int | None) -> None:
        check_device(device)
        self._bundle, self._device, self._threads = bundle, device, threads
        self._opening: dict[str, Future[Session]] = {}
        self._lock = threading.Lock()
        self._openers = ThreadPoolExecutor(_OPENERS, thread_name_prefix="open-session")

    def open_ahead(self, names: Iterable[str]) -> None:
        """Start opening graphs; the ones first named start first.

        Raises:
            BundleError: the bundle lacks one of them; then none is started.
        """
        wanted = list(names)
        for name in wanted:
            self._bundle.graph(name)
        for name in wanted:
            self._future(name)

    def __getitem__(self, name: str) -> Session:
        """The opened session of a graph; waits for it.

        Raises:
            BundleError, MissingDependencyError, WorkError: as `open_session`.
        """
        future = self._future(name)
        try:
            return future.result()
        except BaseException:
            with self._lock:  # let the next call try again, after the user has mended it
                if self._opening.get(name) is future:
                    del self._opening[name]
            raise

    def _future(self, name: str) -> Future[Session]:
        with self._lock:
            if name not in self._opening:
                self._opening[name] = self._openers.submit(
                    open_session, self._bundle, name, self._device, self._threads
                )
            return self._opening[name]
