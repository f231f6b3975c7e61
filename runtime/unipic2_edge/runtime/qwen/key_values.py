"""The language model's cache: the keys and values of the tokens that it has read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..bundle import Graph
from ..session import Array, CachingSession, stored_dtype


class Cache(Protocol):
    """Keys and values of the tokens that were read, wherever they are."""

    @property
    def length(self) -> int:
        """P, how many tokens were read."""
        ...

    def cut(self, length: int) -> KeyValues:
        """Those of the first `length` tokens, as arrays."""
        ...


@dataclass(frozen=True)
class KeyValues:
    """Arrays [B, heads, P, head_dim] in the order key 0, value 0, key 1, …; nobody writes into them."""

    arrays: tuple[Array, ...]

    @property
    def length(self) -> int:
        """P, how many tokens were read."""
        return int(self.arrays[0].shape[2]) if self.arrays else 0

    @property
    def nbytes(self) -> int:
        """The memory that the arrays take, in bytes."""
        return sum(array.nbytes for array in self.arrays)

    def cut(self, length: int) -> KeyValues:
        """The cache of the first `length` tokens, in memory of its own."""
        if length == self.length:
            return self
        return KeyValues(tuple(np.ascontiguousarray(array[:, :, :length]) for array in self.arrays))


def empty_cache(graph: Graph, batch: int = 1) -> KeyValues:
    """The cache before the first token, as the graph `language` takes it."""
    arrays = []
    for spec in graph.inputs:
        if spec.name.startswith("past_"):
            _, heads, _, head_dim = spec.shape
            arrays.append(np.zeros((batch, int(heads), 0, int(head_dim)), stored_dtype(spec)))
    return KeyValues(tuple(arrays))


class InPlace:
    """Keys and values that a session holds: those it holds *now*, so that only the newest of these may be used.

    Args:
        session: holds them.
        length: P.
    """

    def __init__(self, session: CachingSession, length: int) -> None:
        self.session, self._length = session, length
        self.current = True

    @property
    def length(self) -> int:
        """P, how many tokens were read."""
        return self._length

    def cut(self, length: int) -> KeyValues:
        """A copy of the first `length` tokens'.

        Raises:
            RuntimeError: the session has gone on since.
        """
        if not self.current:
            raise RuntimeError("the session's keys and values are another sequence's by now")
        return KeyValues(tuple(self.session.save_cache(length).values()))
