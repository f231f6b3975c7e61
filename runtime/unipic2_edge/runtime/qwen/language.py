"""The language model: embeddings in, hidden states and a longer cache out (graphs `language` and `lm_head`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..conditioning import Sessions
from ..errors import RequestError, WorkError
from ..session import Array, CachingSession, cache_inputs
from .key_values import Cache, InPlace, KeyValues, empty_cache
from .positions import causal_bias, rope_tables
from .settings import RopeSettings

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

HEAD_GRAPH = "lm_head"
_CHUNK = 2048  # tokens: the bias of a large picture's 16,000 tokens would take 1 GB at once


class LanguageModel:
    """One graph for all uses: reading a prompt, encoding meta queries, going on token by token.

    Its cache grows from call to call.

    Args:
        sessions: the opened graphs; `lm_head` is opened by the first question that is answered in words.
        rope: how the model's attention turns.
        chunk: how many tokens are read at once, at most (what an engine was built for, say).
    """

    graph = "language"

    def __init__(self, sessions: Sessions, rope: RopeSettings, chunk: int = _CHUNK) -> None:
        self._sessions, self._rope, self._chunk = sessions, rope, chunk

    def empty(self, batch: int = 1) -> Cache:
        """The cache before the first token."""
        return empty_cache(self._sessions[self.graph].graph, batch)

    def prefill(self, embeddings: Floats, positions: Ids, cache: Cache, select: int = 1) -> tuple[Floats, Cache]:
        """Read S more tokens after those of the cache.

        Args:
            embeddings: [B, S, H] of the new tokens.
            positions: [3, S], their rope indices.
            cache: of the P tokens before them; it stays as it is.
            select: K, of how many of the last tokens the hidden states are wanted, at most S.

        Returns:
            Hidden states [B, K, H] after the final norm, and the cache of P + S tokens.

        Raises:
            WorkError: the backend failed.
        """
        count, found = embeddings.shape[1], []
        for start in range(0, count, self._chunk):
            end = min(start + self._chunk, count)
            wanted = min(end - start, end - (count - select))  # of this chunk's tokens; of an early one none
            hidden, cache = self._read(embeddings[:, start:end], positions[:, start:end], cache, max(wanted, 1))
            if wanted > 0:
                found.append(hidden)
        return np.concatenate(found, axis=1), cache

    def _read(self, embeddings: Floats, positions: Ids, cache: Cache, select: int) -> tuple[Floats, Cache]:
        past = cache.cut(cache.length).arrays
        inputs = self._inputs(embeddings, positions, select)
        inputs["attention_bias"] = causal_bias(embeddings.shape[1], cache.length, len(embeddings))
        inputs.update(zip(_names("past", len(past)), past, strict=True))
        outputs = self._sessions[self.graph].run(inputs)
        present = tuple(outputs[name] for name in _names("present", len(past)))
        return outputs["hidden"], KeyValues(present)

    def _inputs(self, embeddings: Floats, positions: Ids, select: int) -> dict[str, Array]:
        """Everything but the cache and the mask."""
        batch, count, _ = embeddings.shape
        cos, sin = rope_tables(positions, self._rope, batch)
        return {
            "inputs_embeds": np.ascontiguousarray(embeddings),
            "rope_cos": cos,
            "rope_sin": sin,
            "select_index": np.arange(count - select, count, dtype=np.int64),
        }

    def logits(self, hidden: Floats) -> Floats:
        """Hidden states [B, K, H] → logits [B, K, V].

        Raises:
            WorkError: the backend failed.
        """
        logits: Floats = self._sessions[HEAD_GRAPH].run({"hidden": hidden})["logits"]
        return logits


class InPlaceLanguageModel(LanguageModel):
    """The same where the session holds the cache, in memory of one length that is written in place.

    It holds one sequence's: reading another one after the cache of an earlier one copies that one there first.
    """

    graph = "language_static"

    def __init__(self, sessions: Sessions, rope: RopeSettings, chunk: int = _CHUNK) -> None:
        super().__init__(sessions, rope, chunk)
        self._newest: InPlace | None = None

    def empty(self, batch: int = 1) -> Cache:
        """The cache before the first token; one sequence is read at a time.

        Raises:
            ValueError: another batch than 1.
        """
        if batch != 1:
            raise ValueError(f"one sequence is read at a time, not {batch}")
        return KeyValues(())

    def _read(self, embeddings: Floats, positions: Ids, cache: Cache, select: int) -> tuple[Floats, Cache]:
        session: Any = self._sessions[self.graph]
        count, before = embeddings.shape[1], cache.length
        room = next(spec.shape[-1] for spec in session.graph.inputs if spec.name == "attention_bias")
        if before + count > int(room):
            raise RequestError(
                f"{before + count} tokens do not fit the {room} of this bundle's language model",
                "ask for less, or about a smaller picture",
            )
        self._place(session, cache)
        inputs = self._inputs(embeddings, positions, select)
        inputs["attention_bias"] = causal_bias(count, before, 1, int(room))
        inputs["write_index"] = np.array([before], np.int64)
        hidden = session.run(inputs)["hidden"]
        if self._newest is not None:
            self._newest.current = False
        self._newest = InPlace(session, before + count)
        return hidden, self._newest

    def _place(self, session: CachingSession, cache: Cache) -> None:
        """Have the session hold this cache, if it does not already.

        Raises:
            WorkError: the session that held it was closed meanwhile.
        """
        if isinstance(cache, InPlace) and cache.session is not session:
            raise WorkError("the language model was put away in mid-sequence", "ask again")
        if isinstance(cache, InPlace) and cache.current:
            return
        kept = cache.cut(cache.length)
        names = list(cache_inputs(session.graph))
        session.load_cache(dict(zip(names, kept.arrays, strict=False)), cache.length)


def _names(time: str, count: int) -> list[str]:
    return [f"{time}_{('key', 'value')[place % 2]}_{place // 2}" for place in range(count)]
