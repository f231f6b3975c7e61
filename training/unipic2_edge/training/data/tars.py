"""WebDataset tars, read from any record on: members that follow each other under one key are a record.

A member's key is its path up to the first dot of its name, the rest says what it is (`000012.source.png`). Only wanted
members are read, and nothing in a tar is ever run or unpickled.
"""

from __future__ import annotations

import tarfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from .records import BrokenShardError, Raw

_LARGEST = 1 << 28  # bytes of a member
_BLOCK = 512


def read_tar(path: Path, offset: int, number: int, wanted: Collection[str]) -> Iterator[Raw]:
    """The records of a tar from the one that begins at byte `offset`, which is its record `number`.

    Raises:
        BrokenShardError: it is no tar, or it ends in the middle; what came before the break is whole.
    """
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            yield from _records(stream, number, wanted)
    except (tarfile.TarError, OSError, ValueError) as error:
        raise BrokenShardError(f"{path}: {error}") from error


def read_tar_at(path: Path, offsets: Sequence[tuple[int, int]], wanted: Collection[str]) -> Iterator[Raw]:
    """The records that begin at these (byte, number).

    Raises:
        BrokenShardError: one cannot be read any more.
    """
    for offset, number in offsets:
        raw = next(read_tar(path, offset, number, wanted), None)
        if raw is None:
            raise BrokenShardError(f"{path} has no record at byte {offset} any more")
        yield raw


def endings_of(path: Path) -> list[str]:
    """The endings of the first record's members.

    Raises:
        BrokenShardError: it is no tar.
    """
    endings: list[str] = []
    try:
        with tarfile.open(path, "r:") as archive:
            key = ""
            for member in archive:
                if member.isreg():
                    its_key, ending = split(member.name)
                    if key not in ("", its_key):
                        break
                    key = its_key
                    endings.append(ending)
    except (tarfile.TarError, OSError) as error:
        raise BrokenShardError(f"{path}: {error}") from error
    return endings


def _records(stream: BinaryIO, number: int, wanted: Collection[str]) -> Iterator[Raw]:
    archive = tarfile.TarFile(fileobj=stream, mode="r")
    key, begins = "", 0
    values: dict[str, Any] = {}
    while (member := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]  # else it remembers every one
        if not member.isreg():
            continue
        its_key, ending = split(member.name)
        if its_key != key:
            if key:
                yield Raw(key, number, begins, member.offset, values)
                number += 1
            key, begins, values = its_key, member.offset, {}
        if ending in wanted:
            values[ending] = _content(stream, member)
    _check_end(stream, archive.offset)
    if key:
        yield Raw(key, number, begins, archive.offset, values)


def split(name: str) -> tuple[str, str]:
    """A member's key and its ending, in lower case: `a/b.c.png` is `a/b` and `c.png`."""
    path = PurePosixPath(name)
    stem, _, ending = path.name.partition(".")
    return (path.parent / stem).as_posix(), ending.lower()


def _content(stream: BinaryIO, member: tarfile.TarInfo) -> bytes | None:
    if member.size > _LARGEST:
        return None
    stream.seek(member.offset_data)
    content = stream.read(member.size)
    if len(content) < member.size:
        raise tarfile.ReadError(f"it ends inside {member.name}")
    return content


def _check_end(stream: BinaryIO, offset: int) -> None:
    """A tar ends in blocks of zeros; tarfile takes a torn or garbled header for an end as well."""
    stream.seek(offset)
    if stream.read(_BLOCK) != bytes(_BLOCK):
        raise tarfile.ReadError(f"its end mark is missing at byte {offset}: it is cut off or garbled there")
