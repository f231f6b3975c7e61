"""The formats of shards by the ends of their names, each as three functions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .parquet import columns_of, read_parquet, read_parquet_at
from .patterns import PARQUET, TAR
from .records import Raw
from .tars import endings_of, read_tar, read_tar_at

Read = Callable[[Path, int, int, Collection[str]], Iterator[Raw]]
ReadAt = Callable[[Path, Sequence[tuple[int, int]], Collection[str]], Iterator[Raw]]


@dataclass(frozen=True)
class Format:
    """`read` from an offset on, `read_at` given offsets, and what the first record of a shard has."""

    read: Read
    read_at: ReadAt
    names_in: Callable[[Path], list[str]]


FORMATS: dict[str, Format] = {
    TAR: Format(read_tar, read_tar_at, endings_of),
    PARQUET: Format(read_parquet, read_parquet_at, columns_of),
}
