"""Prompts and pictures → what the denoiser needs: meta queries read after the turn, then the graph `connector`.

Source: UniPic 2.0 (arXiv 2509.04548) after MetaQuery (arXiv 2504.06256): queries stand after the assistant's start;
each prompt is read alone, so that nothing is padded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import numpy as np

from ..conditioning import Conditioning, Sessions
from .reading import Reader
from .sequence import TokenSequence

CONNECTOR_GRAPH = "connector"
_REMEMBERED = 32  # 4.2 MB each at full size


class QueryConditioner:
    """Turns → conditioning, each computed once as long as it stays among the most recent ones.

    Args:
        reader: of the language model; it has the meta queries.
        sessions: the opened graphs.
        queries: Q, how many meta queries there are.
    """

    def __init__(self, reader: Reader, sessions: Sessions, queries: int) -> None:
        self._reader, self._sessions, self._queries = reader, sessions, queries
        self._known: OrderedDict[bytes, Conditioning] = OrderedDict()

    def __call__(self, turns: Iterable[TokenSequence]) -> Conditioning:
        """Context [B, Q, J] and pooled [B, P] of B turns (see `Chat.generation`, `Chat.editing`), in their order.

        Raises:
            WorkError: a graph failed.
        """
        found = [self._one(turn) for turn in turns]
        return Conditioning(
            np.concatenate([one.context for one in found]), np.concatenate([one.pooled for one in found])
        )

    def _one(self, turn: TokenSequence) -> Conditioning:
        key = turn.marks(self._reader.settings).tobytes()
        if key not in self._known:
            rope = self._reader.settings.rope.condition
            hidden = self._reader.read(turn.with_queries(self._queries), rope, self._queries).hidden
            outputs = self._sessions[CONNECTOR_GRAPH].run({"hidden": hidden})
            self._known[key] = Conditioning(outputs["context"], outputs["pooled"])
        self._known.move_to_end(key)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return self._known[key]
