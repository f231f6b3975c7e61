"""Answering in words: a sequence is read, then token after token is chosen and read in turn."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from ..answer import FinishReason
from ..errors import RequestError
from .reading import Reader
from .sampling import Sampler
from .sequence import TokenSequence
from .settings import Rope


def answer_tokens(
    reader: Reader,
    sequence: TokenSequence,
    sampler: Sampler,
    max_new_tokens: int,
    rope: Rope | None = None,
) -> Generator[int, None, FinishReason]:
    """The ids of an answer, each as soon as it is chosen; stop ids end it and are not given; returns why it ended.

    Args:
        reader: reads the prompt and every token of the answer.
        sequence: the prompt.
        sampler: chooses.
        max_new_tokens: the longest answer; the model's context may end it earlier.
        rope: where the tokens stand, the settings' choice for answers by default.

    Raises:
        RequestError: `max_new_tokens` is not positive (raised before the first token is asked for).
        WorkError: a graph failed, or gave NaN.
    """
    if max_new_tokens < 1:
        raise RequestError(f"an answer cannot have {max_new_tokens} tokens", "give 1 or more")
    room = max(reader.settings.chat.context - len(sequence.ids), 1)
    return _answer(reader, sequence, sampler, min(max_new_tokens, room), rope or reader.settings.rope.answer)


def _answer(
    reader: Reader, sequence: TokenSequence, sampler: Sampler, count: int, rope: Rope
) -> Generator[int, None, FinishReason]:
    ids = sequence.ids
    hidden, cache, place, _ = reader.read(sequence, rope)
    for left in range(count, 0, -1):
        token = sampler(reader.model.logits(hidden)[0, -1], ids)
        if token in reader.settings.chat.stop_ids:
            return "stop"
        yield token
        if left > 1:  # the last token's own successor is not asked for
            ids = np.append(ids, token)
            positions = np.full((3, 1), place, np.int64)
            hidden, cache = reader.model.prefill(reader.embed(ids[-1:])[None], positions, cache)
            place += 1
    return "length"
