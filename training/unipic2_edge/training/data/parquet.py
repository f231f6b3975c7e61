"""Parquet files, read from any row on, a few rows at a time; only wanted columns."""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as arrow
from pyarrow import parquet

from .records import BrokenShardError, Raw

_AT_ONCE = 16  # rows: pictures are large


def read_parquet(path: Path, offset: int, number: int, wanted: Collection[str]) -> Iterator[Raw]:
    """The records of a file from row `offset` on, which is `number` as well.

    Raises:
        BrokenShardError: it is no Parquet file, or is damaged from some row on.
    """
    yield from _read(path, range(offset, sys.maxsize), wanted)


def read_parquet_at(path: Path, offsets: Sequence[tuple[int, int]], wanted: Collection[str]) -> Iterator[Raw]:
    """The records of these (row, row), in rising order; row groups without any are not read.

    Raises:
        BrokenShardError: one cannot be read any more.
    """
    rows = [row for row, _ in offsets]
    found = 0
    for found, raw in enumerate(_read(path, rows, wanted), 1):  # noqa: B007 - counted
        yield raw
    if found < len(rows):
        raise BrokenShardError(f"{path} has no row {rows[-1]} any more")


def columns_of(path: Path) -> list[str]:
    """The columns of a file.

    Raises:
        BrokenShardError: it is no Parquet file.
    """
    try:
        return list(parquet.read_schema(path).names)
    except (arrow.ArrowException, OSError) as error:
        raise BrokenShardError(f"{path}: {_first_line(error)}") from error


def _read(path: Path, rows: Sequence[int], wanted: Collection[str]) -> Iterator[Raw]:
    """Those of `rows`, which rise, that the file has."""
    try:
        with parquet.ParquetFile(path) as file:
            begins = 0
            for group in range(file.num_row_groups):
                ends = begins + file.metadata.row_group(group).num_rows
                asked = rows[bisect_left(rows, begins) : bisect_left(rows, ends)]
                if asked:
                    yield from _group(file, group, begins, asked, wanted)
                begins = ends
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise BrokenShardError(f"{path}: {_first_line(error)}") from error


def _group(
    file: parquet.ParquetFile, group: int, row: int, asked: Sequence[int], wanted: Collection[str]
) -> Iterator[Raw]:
    """Those of a row group, whose first row is `row`, that are asked for."""
    columns = [name for name in file.schema_arrow.names if name in wanted]
    found = asked if isinstance(asked, range) else frozenset(asked)
    for batch in file.iter_batches(_AT_ONCE, row_groups=[group], columns=columns, use_threads=False):
        for place in range(batch.num_rows):
            if row in found:
                values: dict[str, Any] = {name: batch.column(name)[place].as_py() for name in columns}
                yield Raw(str(row), row, row, row + 1, values)
            row += 1


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
