"""The language model: embeddings in, hidden states and a longer cache out (graphs `language` and `lm_head`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..conditioning import Sessions
from .key_values import KeyValues, empty_cache
from .positions import causal_bias, rope_tables
from .settings import RopeSettings

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

LANGUAGE_GRAPH = "language"
HEAD_GRAPH = "lm_head"
_CHUNK = 2048  # tokens: the bias of a large picture's 16,000 tokens would take 1 GB at once


class LanguageModel:
    """One graph for all uses: reading a prompt, encoding meta queries, going on token by token.

    Args:
        sessions: the opened graphs; `lm_head` is opened by the first question that is answered in words.
        rope: how the model's attention turns.
        chunk: how many tokens are read at once, at most (what an engine was built for, say).
    """

    def __init__(self, sessions: Sessions, rope: RopeSettings, chunk: int = _CHUNK) -> None:
        self._sessions, self._rope, self._chunk = sessions, rope, chunk

    def empty(self, batch: int = 1) -> KeyValues:
        """The cache before the first token."""
        return empty_cache(self._sessions[LANGUAGE_GRAPH].graph, batch)

    def prefill(
        self, embeddings: Floats, positions: Ids, cache: KeyValues, select: int = 1
    ) -> tuple[Floats, KeyValues]:
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

    def _read(self, embeddings: Floats, positions: Ids, cache: KeyValues, select: int) -> tuple[Floats, KeyValues]:
        batch, count, _ = embeddings.shape
        cos, sin = rope_tables(positions, self._rope, batch)
        inputs = {
            "inputs_embeds": np.ascontiguousarray(embeddings),
            "rope_cos": cos,
            "rope_sin": sin,
            "attention_bias": causal_bias(count, cache.length, batch),
            "select_index": np.arange(count - select, count, dtype=np.int64),
        }
        inputs.update(zip(_names("past", len(cache.arrays)), cache.arrays, strict=True))
        outputs = self._sessions[LANGUAGE_GRAPH].run(inputs)
        present = tuple(outputs[name] for name in _names("present", len(cache.arrays)))
        return outputs["hidden"], KeyValues(present)

    def logits(self, hidden: Floats) -> Floats:
        """Hidden states [B, K, H] → logits [B, K, V].

        Raises:
            WorkError: the backend failed.
        """
        logits: Floats = self._sessions[HEAD_GRAPH].run({"hidden": hidden})["logits"]
        return logits


def _names(time: str, count: int) -> list[str]:
    return [f"{time}_{('key', 'value')[place % 2]}_{place // 2}" for place in range(count)]
