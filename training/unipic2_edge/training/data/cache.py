"""Encodings on disk: latents and text embeddings, one safetensors file each, found by what they were made from.

A file's name is the hash of the frozen parts that made it and of what it was made from: other weights, another picture
or another crop is another file, and nothing is ever stale. Files appear whole (written beside, fsynced, renamed);
processes and runs may share a folder.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..folders import replacing

_WAITING = 64  # entries that are encoded and not yet written


class Cache:
    """A folder of encodings.

    Args:
        folder: may be shared, and need not exist.
        made_by: the hash of the frozen parts, and in which precision they run.
    """

    def __init__(self, folder: Path, made_by: str) -> None:
        self.folder, self.made_by = folder, made_by
        self._writer = ThreadPoolExecutor(1, "cache")
        self._room = threading.BoundedSemaphore(_WAITING)
        self._failed: BaseException | None = None

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors of an entry in float32, or none if it is not there or damaged."""
        try:
            found = load(self._path(key).read_bytes())
        except (OSError, SafetensorError):
            return None
        return {name: tensor.float() for name, tensor in found.items()}

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keep an entry, in the background; returns it as it will be read.

        Stored in half precision, unless a number does not fit into it.

        Raises:
            OutputError: an earlier entry could not be written.
            WorkError: the disk is full.
        """
        self._check()
        halves = {name: tensor.detach().cpu().half().contiguous() for name, tensor in tensors.items()}
        if not all(bool(half.isfinite().all()) for half in halves.values()):
            halves = {name: tensor.detach().cpu().float().contiguous() for name, tensor in tensors.items()}
        self._room.acquire()
        self._writer.submit(self._write, key, halves).add_done_callback(self._written)
        return {name: half.float() for name, half in halves.items()}

    def flush(self) -> None:
        """Wait until all is written.

        Raises:
            OutputError: an entry could not be written.
            WorkError: the disk is full.
        """
        self._writer.submit(lambda: None).result()
        self._check()

    def _write(self, key: str, tensors: dict[str, Tensor]) -> None:
        with replacing(self._path(key)) as temporary:
            temporary.write_bytes(save(tensors))

    def _written(self, future: Future[None]) -> None:
        self._room.release()
        self._failed = self._failed or future.exception()

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(f"{self.made_by}\0{key}".encode()).hexdigest()
        return self.folder / name[:2] / f"{name[2:]}.safetensors"


def precision_of(module: torch.nn.Module, autocast: bool) -> str:
    """In which precision a frozen part runs, as it goes into a cache's `made_by`."""
    return f"{next(module.parameters()).dtype}{' autocast' if autocast else ''}"
