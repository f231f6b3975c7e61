"""Token ids → embeddings: rows of a table on the disk, read where they are needed and never loaded whole."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

_DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}  # numpy has no bfloat16: its bits
_MAX_HEADER = 1 << 20


class _Entry(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class TokenTable:
    """A safetensors file with one tensor [V, H] in float32, float16 or bfloat16, mapped into memory.

    Raises:
        BundleError: the file is missing, damaged, or holds anything else.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._rows, self._bfloat16 = _map(path)
        except (OSError, ValueError, struct.error, msgspec.MsgspecError) as error:
            raise BundleError(f"{path} is not a table of embeddings: {error}", "export the checkpoint again") from error

    @property
    def shape(self) -> tuple[int, int]:
        """(V, H)."""
        return self._rows.shape[0], self._rows.shape[1]

    def __call__(self, ids: Ids) -> Floats:
        """Embeddings [S, H] float32 of ids [S]."""
        rows = self._rows[ids]
        if not self._bfloat16:
            return rows.astype(np.float32)
        return (rows.astype(np.uint32) << 16).view(np.float32)


def _map(path: Path) -> tuple[NDArray[Any], bool]:
    """The tensor's rows, and whether they are the bits of bfloat16. Format: safetensors (length, JSON, data)."""
    with path.open("rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        if size > _MAX_HEADER:
            raise ValueError("its header is too long")
        header = msgspec.json.decode(stream.read(size), type=dict[str, msgspec.Raw])
    header.pop("__metadata__", None)
    if len(header) != 1:
        raise ValueError(f"it has {len(header)} tensors, not one")
    entry = msgspec.json.decode(next(iter(header.values())), type=_Entry)
    if len(entry.shape) != 2 or entry.dtype not in _DTYPES:
        raise ValueError(f"its tensor is {entry.dtype} {list(entry.shape)}")
    start = 8 + size + entry.data_offsets[0]
    rows = np.memmap(path, _DTYPES[entry.dtype], mode="r", offset=start, shape=entry.shape)
    return rows, entry.dtype == "BF16"
