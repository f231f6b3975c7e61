"""Opening a bundle's files safely: inside the folder, plain files of its own, byte for byte as recorded.

A link could name a file outside the bundle (ONNX Runtime follows hard links in external data), so a
bundle's files may be neither symbolic nor hard links, nor stand behind a linked folder.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from .errors import BundleError
from .files import sha256_of

_AGAIN = "copy the bundle again from where it came from, or export the checkpoint again"


def verified_path(folder: Path, relative: str, sha256: str, size: int) -> Path:
    """The path of `folder/relative`, after its size and SHA-256 were compared with the recorded ones.

    Raises:
        BundleError: the path leaves the folder, is missing, is a link, or its bytes differ.
    """
    path = plain_file(folder, relative)
    with _reading(path):
        _compare(path, path.stat().st_size, size, "bytes")
        _compare(path, sha256_of(path), sha256, "SHA-256")
    return path


def verified_bytes(folder: Path, relative: str, sha256: str, size: int) -> bytes:
    """The bytes of `folder/relative`; the bytes returned are those that were hashed.

    Raises:
        BundleError: as `verified_path`.
    """
    data = read_plain_file(folder, relative)
    path = folder / relative
    _compare(path, len(data), size, "bytes")
    _compare(path, hashlib.sha256(data).hexdigest(), sha256, "SHA-256")
    return data


def read_plain_file(folder: Path, relative: str) -> bytes:
    """The bytes of a file that has no recorded hash (a manifest, an engine record), links refused."""
    path = plain_file(folder, relative)
    with _reading(path):
        return path.read_bytes()


def plain_file(folder: Path, relative: str) -> Path:
    """`folder/relative`, if it is a regular file below `folder` that no link leads to.

    Raises:
        BundleError: the path leaves the folder, is missing, or is a link of any kind.
    """
    parts = _parts(relative)
    path = folder
    for part in parts:
        path = path / part
        try:
            status = os.lstat(path)
        except OSError as error:
            raise BundleError(f"{path} is missing or cannot be read: {error.strerror}", _AGAIN) from error
        if stat.S_ISLNK(status.st_mode):
            raise BundleError(f"{path} is a symbolic link; a bundle holds plain files only", _AGAIN)
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{path} is not a file", _AGAIN)
    if status.st_nlink != 1:
        raise BundleError(f"{path} is a hard link; a bundle holds files of its own only", _AGAIN)
    return path


def _parts(relative: str) -> tuple[str, ...]:
    """The parts of a relative POSIX path that stays below its folder, on every operating system."""
    posix, windows = PurePosixPath(relative), PureWindowsPath(relative)
    foreign = "\\" in relative or "\0" in relative or bool(windows.drive) or bool(windows.root)
    if foreign or posix.is_absolute() or not posix.parts or ".." in posix.parts:
        raise BundleError(f"the bundle names {relative!r}, a path outside its folder", "do not use this bundle")
    return posix.parts


def _compare(path: Path, found: object, recorded: object, what: str) -> None:
    if found != recorded:
        raise BundleError(f"{path} is damaged: {what} {found}, recorded {recorded}", _AGAIN)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to read into a `BundleError`."""
    try:
        yield
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}", _AGAIN) from error
