"""Shards by name: a file, a folder, a glob, or braces such as `train-{000000..000099}.tar`."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError

TAR, PARQUET = ".tar", ".parquet"
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 1_000_000


def find_shards(pattern: str) -> list[Path]:
    """The shards that a recipe's `path` names, all tars or all Parquet; those of a folder or glob in sorted order.

    Raises:
        DataError: nothing matches, a file is missing, or is of neither format, or they are of both.
    """
    found = list(dict.fromkeys(path for name in braces(pattern) for path in _named(name)))
    if not found:
        raise DataError(
            f"no shard matches {pattern}", "correct the source's path; relative ones start where the command runs"
        )
    missing = [path for path in found if not path.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(found)} shards of {pattern} are not there, {missing[0]} the first",
            "correct the source's path, or fetch the shards",
        )
    formats = {path.suffix for path in found}
    if len(formats) > 1 or not formats <= {TAR, PARQUET}:
        strange = next((path.name for path in found if path.suffix not in (TAR, PARQUET)), "")
        raise DataError(
            f"{pattern}: {strange} is neither .tar nor .parquet"
            if strange
            else f"{pattern} has both .tar and .parquet",
            "give shards of one format; compressed tars cannot be read from the middle, so unpack them",
        )
    return found


def braces(pattern: str) -> Iterator[str]:
    """The names that braces stand for, the innermost and leftmost first: `{a,b}` and `{000..099}`, zeros kept.

    Raises:
        DataError: a range runs backwards or is longer than a million.
    """
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    before, after = pattern[: match.start()], pattern[match.end() :]
    for choice in _choices(match[1], pattern):
        yield from braces(f"{before}{choice}{after}")


def _choices(inside: str, pattern: str) -> list[str]:
    bounds = _RANGE.fullmatch(inside)
    if bounds is None:
        return inside.split(",")
    first, last = int(bounds[1]), int(bounds[2])
    if not first <= last < first + _MOST:
        raise DataError(f"{pattern}: the range {{{inside}}} is empty or too long", "correct the source's path")
    return [str(number).zfill(len(bounds[1])) for number in range(first, last + 1)]


def _named(name: str) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_dir():
        return sorted(each for each in path.rglob("*") if each.suffix in (TAR, PARQUET))
    if glob.has_magic(name):
        return [Path(each) for each in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207 - takes absolutes
    return [path]
