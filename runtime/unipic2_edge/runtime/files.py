"""Files that are either whole or not there: temp file → fsync → rename, hashes, folders published at once.

A kill at any moment leaves the old state or the new one. Temporary names start with `.tmp-`, stand in the
same folder as their target (so that the rename stays on one file system) and are removed on failure.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import OutputError, UserError, WorkError

_CHUNK = 1 << 20


def sha256_of(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes, read in chunks of 1 MiB."""
    with path.open("rb") as stream:
        return sha256_of_stream(stream)


def sha256_of_stream(stream: BinaryIO) -> str:
    """The hexadecimal SHA-256 of what is left of a stream."""
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically and durably.

    Raises:
        OutputError: the folder does not exist or cannot be written to.
        WorkError: the disk is full.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and renamed onto `path`.

    Raises:
        OutputError: the folder does not exist or cannot be written to.
        WorkError: the disk is full.
    """
    with output_errors(path):
        handle, name = tempfile.mkstemp(prefix=".tmp-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            _fsync(temporary)
            temporary.chmod(0o644)
            temporary.replace(path)
            _fsync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def publishing(folder: Path) -> Iterator[Path]:
    """Yield a temporary sibling folder; on success its files are fsynced and it is renamed to `folder`.

    Raises:
        OutputError: `folder` exists already, or its parent cannot be written to.
        WorkError: the disk is full.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(
            f"{folder} exists already and is not empty",
            "give another output folder, or remove this one first",
        )
    with output_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder.parent))
        try:
            yield temporary
            _fsync_files(temporary)
            temporary.chmod(0o755)
            if folder.exists():
                folder.rmdir()
            temporary.replace(folder)
            _fsync_folder(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary sibling folder that takes the place of `folder`, whatever stood there.

    Two renames cannot be one: a kill between them leaves no folder at all, and never a mixed one.

    Raises:
        OutputError: the parent cannot be written to.
        WorkError: the disk is full.
    """
    old = folder.with_name(f".tmp-old-{folder.name}")
    with output_errors(folder):
        shutil.rmtree(old, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder.parent))
        try:
            yield temporary
            _fsync_files(temporary)
            temporary.chmod(0o755)
            if folder.exists():
                folder.replace(old)
            temporary.replace(folder)
            _fsync_folder(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write `path` into user errors.

    Raises:
        OutputError: missing folder, no permission, read-only file system, a file where a folder is needed.
        WorkError: no space left, or any other failure of the device.
    """
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise WorkError(
                f"no space left on the disk while writing {path}", "free some space; nothing was kept"
            ) from error
        if error.errno in (
            errno.ENOENT,
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
            errno.ENOTDIR,
            errno.EISDIR,
            errno.EEXIST,
        ):
            raise OutputError(
                f"cannot write {path}: {os.strerror(error.errno).lower()}",
                "give a path in an existing folder you may write to",
            ) from error
        raise WorkError(f"writing {path} failed: {error}", "check the disk; nothing was kept") from error


def _fsync_files(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            _fsync(path)


def _fsync(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _fsync_folder(folder: Path) -> None:
    # Windows cannot open a folder for fsync; there the rename itself is journalled.
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
