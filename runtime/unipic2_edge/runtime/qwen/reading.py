"""Reading a sequence: embeddings from table, eyes and meta queries, then the language model after what it knows."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..conditioning import Sessions
from .key_values import Cache
from .language import InPlaceLanguageModel, LanguageModel
from .prefix import PrefixCache
from .seeing import Eyes
from .sequence import QUERY, TokenSequence
from .settings import QwenSettings, Rope

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


class Embedding(Protocol):
    """Token ids [S] → embeddings [S, H]; `TokenTable` is one."""

    def __call__(self, ids: Ids) -> Floats:
        """The rows of these ids."""
        ...


class Reading(NamedTuple):
    """What came of a sequence of S tokens: hidden [1, K, H] of the last K, the cache, and the next rope index.

    `reused` is how many tokens were known before and not computed again.
    """

    hidden: Floats
    cache: Cache
    next_position: int
    reused: int


class Reader:
    """Sequences → hidden states; the cache of a prompt's pictures is kept and used again.

    Args:
        sessions: the opened graphs `vision` and `language`.
        settings: of this Qwen2.5-VL.
        embedding: of tokens.
        queries: meta queries [Q, H], None for a model without.
        prefixes: what is kept of earlier sequences.
        in_place: whether the session holds the language model's cache (graph `language_static`).
    """

    def __init__(
        self,
        sessions: Sessions,
        settings: QwenSettings,
        embedding: Embedding,
        queries: Floats | None,
        prefixes: PrefixCache,
        in_place: bool = False,
    ) -> None:
        self.settings, self.embed = settings, embedding
        self.model = (InPlaceLanguageModel if in_place else LanguageModel)(sessions, settings.rope)
        self._eyes = Eyes(sessions, settings.vision)
        self._queries, self._prefixes = queries, prefixes

    def read(self, sequence: TokenSequence, rope: Rope, select: int = 1) -> Reading:
        """Read a whole sequence; only what is not known from an earlier one is computed.

        Args:
            sequence: of at least `select` tokens.
            rope: where its tokens stand.
            select: K, of how many of the last tokens the hidden states are wanted.

        Raises:
            WorkError: a graph failed.
            ValueError: the pads among the ids are not exactly the tokens of the pictures.
        """
        marks = sequence.marks(self.settings)
        known = self._prefixes.match(marks, rope, len(marks) - select) or self.model.empty()
        positions = sequence.positions(self.settings, rope)
        embeddings = self._embeddings(sequence, known.length)
        hidden, cache = self.model.prefill(embeddings[None], positions[:, known.length :], known, select)
        self._keep(sequence, marks, rope, cache, known.length)
        return Reading(hidden, cache, int(positions.max()) + 1, known.length)

    def _embeddings(self, sequence: TokenSequence, known: int) -> Floats:
        """[S − known, H]: of the tokens after the known ones; pictures that are known are not looked at again."""
        ids = sequence.ids
        rows = self.embed(np.maximum(ids[known:], 0))
        for (start, end), picture in zip(sequence.spans(self.settings), sequence.pictures, strict=True):
            if end > known:
                first = max(start, known)
                rows[first - known : end - known] = self._eyes(picture)[first - start :]
        if self._queries is not None:
            places = np.flatnonzero(ids == QUERY)
            new = places >= known
            rows[places[new] - known] = self._queries[: len(places)][new]
        return rows

    def _keep(self, sequence: TokenSequence, marks: Ids, rope: Rope, cache: Cache, known: int) -> None:
        """Keep what stands up to the last picture's end: words are read quickly, pictures are many tokens."""
        end = max((end for _, end in sequence.spans(self.settings)), default=0)
        if end > known:
            self._prefixes.put(marks[:end], rope, cache.cut(end))
