"""Prefix reuse: the caches of sequences' starts, kept as long as they fit into so many bytes, least used first out.

The start of a sequence is known by its marks (`sequence.py`: token ids, pictures by their pixels) and by its rope; a
token's keys and values depend on nothing that comes after it, so the longest common start of two sequences counts.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .key_values import KeyValues
from .settings import Rope

Ids = NDArray[np.int64]


class _Prefix(NamedTuple):
    marks: Ids
    rope: Rope
    cache: KeyValues


class PrefixCache:
    """The most recently used starts of sequences.

    Args:
        max_bytes: how much their caches may take together; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[bytes, _Prefix] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """What is kept, in bytes."""
        return sum(prefix.cache.nbytes for prefix in self._kept.values())

    def __len__(self) -> int:
        return len(self._kept)

    def match(self, marks: Ids, rope: Rope, limit: int) -> KeyValues | None:
        """The cache of the longest known start of `marks`, of at most `limit` tokens; None when nothing is known."""
        best, longest = None, 0
        for key, prefix in self._kept.items():
            common = min(common_length(marks, prefix.marks), limit) if prefix.rope == rope else 0
            if common > longest:
                best, longest = key, common
        if best is None:
            return None
        self._kept.move_to_end(best)
        return self._kept[best].cache.cut(longest)

    def put(self, marks: Ids, rope: Rope, cache: KeyValues) -> None:
        """Keep the cache of these marks, in place of those of its own starts; it has len(marks) tokens."""
        if cache.nbytes > self._max_bytes:
            return
        for key, prefix in list(self._kept.items()):
            if prefix.rope == rope and common_length(marks, prefix.marks) == len(prefix.marks):
                del self._kept[key]
        self._kept[_key(marks, rope)] = _Prefix(marks, rope, cache)
        while self.nbytes > self._max_bytes:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        """Let all go."""
        self._kept.clear()


def common_length(one: Ids, other: Ids) -> int:
    """How many of the first marks are equal."""
    length = min(len(one), len(other))
    differ = np.flatnonzero(one[:length] != other[:length])
    return int(differ[0]) if len(differ) else length


def _key(marks: Ids, rope: Rope) -> bytes:
    return hashlib.sha256(rope.encode() + marks.tobytes()).digest()
