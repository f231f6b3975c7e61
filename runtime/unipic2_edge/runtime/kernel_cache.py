"""TensorRT-RTX's compiled kernels, kept in a file beside the engine they belong to."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

from .errors import UserError
from .files import write_bytes

logger = logging.getLogger(__name__)


class KernelCache:
    """One engine's kernels; a file that does not fit the card, the driver or the library is left unread."""

    def __init__(self, path: Path) -> None:
        self._path, self._known = path, b""
        self._cache: Any = None

    def attach(self, config: Any) -> None:
        """Let a runtime configuration read from it and add to it."""
        self._cache = config.create_runtime_cache()
        with contextlib.suppress(OSError):
            stored = self._path.read_bytes()
            if self._cache.deserialize(stored):
                self._known = stored
            else:
                logger.info("%s does not fit this card, driver or library: kernels are compiled again", self._path)
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Write what is new; a bundle that cannot be written to is served all the same."""
        if self._cache is None:
            return
        content = bytes(self._cache.serialize())
        if content == self._known:
            return
        self._known = content
        try:
            write_bytes(self._path, content)
        except UserError as error:
            logger.info("compiled kernels are not kept: %s", error.problem)
