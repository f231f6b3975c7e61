"""Folders that appear whole or not at all: written beside their place, fsynced, then renamed."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError, UserError, WorkError


@contextmanager
def publishing(folder: Path, replace: bool = False) -> Iterator[Path]:
    """A temporary sibling that is fsynced and renamed to `folder` when the block ends well, else removed.

    Args:
        folder: must not exist, or be empty.
        replace: lets a folder that is there stay until the new one is whole, and then takes its place.

    Raises:
        OutputError: `folder` exists and is not empty, or its parent cannot be written to.
        WorkError: the disk is full.
    """
    if not replace and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(
            f"{folder} exists already and is not empty",
            "give another output folder, or remove this one first",
        )
    with _output_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder.parent))
        try:
            yield temporary
            for path in temporary.rglob("*"):
                if path.is_file():
                    with path.open("rb+") as stream:
                        os.fsync(stream.fileno())
            temporary.chmod(0o755)
            _make_way(folder)
            temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _make_way(folder: Path) -> None:
    """Move what stands in a folder's place aside, and remove it: for a moment there is neither, never a half of one."""
    if folder.exists():
        before = Path(tempfile.mkdtemp(prefix=".old-", dir=folder.parent))
        folder.replace(before / folder.name)
        shutil.rmtree(before, ignore_errors=True)


@contextmanager
def full_disk_told(folder: Path, mend: str = "free some space") -> Iterator[None]:
    """A disk that fills up in this block as a user error, in whatever words a library reports it.

    Raises:
        WorkError: the disk, or what a user or a file may take of it, is full.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not _is_full(error):
            raise
        raise WorkError(f"no space left on the disk while writing {folder}", mend) from error


def _is_full(error: BaseException | None) -> bool:
    """safetensors quotes the system; torch says that its writer failed, and perhaps raises that while handling it."""
    if error is None:
        return False
    code, said = getattr(error, "errno", None), str(error)
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    if any(word in said for word in ("No space left", "File too large", "Disk quota exceeded", "inline_container.cc")):
        return True
    return _is_full(error.__cause__) or _is_full(error.__context__)


@contextmanager
def _output_errors(folder: Path) -> Iterator[None]:
    """The operating system's refusals as user errors."""
    try:
        with full_disk_told(folder):
            yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"cannot write {folder}: {reason}", "give a folder you may write to") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary sibling that is fsynced and renamed to `path` when the block ends well, else removed.

    The folder is made where it is missing.

    Raises:
        OutputError: the folder cannot be made or written to.
        WorkError: the disk is full.
    """
    with _output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".tmp-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
