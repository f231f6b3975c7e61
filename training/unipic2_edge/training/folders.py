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
def _output_errors(folder: Path) -> Iterator[None]:
    """The operating system's refusals as user errors; safetensors reports a full disk in words of its own."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            raise WorkError(f"no space left on the disk while writing {folder}", "free some space") from error
        if isinstance(error, OSError):
            reason = (error.strerror or str(error)).lower()
            raise OutputError(f"cannot write {folder}: {reason}", "give a folder you may write to") from error
        raise
