"""Files against the hashes that the hub names: SHA-256 for large files, git's SHA-1 of a blob for small ones."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

_CHUNK = 1 << 24  # bytes


def matches(path: Path, expected: str) -> bool:
    """Whether a file has a hash: 64 hexadecimal digits are SHA-256, 40 are git's.

    Git's is SHA-1 over "blob SIZE", a zero byte and the file's bytes (git's documentation, "Git Objects").
    """
    digest = hashlib.sha256() if len(expected) == 64 else hashlib.sha1(usedforsecurity=False)
    if len(expected) == 40:
        digest.update(f"blob {path.stat().st_size}\0".encode())
    buffer = memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest() == expected


def hash_in_cache(path: Path) -> str | None:
    """The hash that the hub's cache keeps a file under; None where the cache holds it without a link."""
    name = path.resolve().name
    return name if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name) else None
