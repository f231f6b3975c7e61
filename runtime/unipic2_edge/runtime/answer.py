"""An answer in words: pieces of text as they come, and what is known of it at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from typing import Literal

#: "stop": the model ended it; "length": it was cut off.
FinishReason = Literal["stop", "length"]


class Answer(Iterator[str]):
    """The words of one answer: an iterator of pieces of text, each given as soon as it is there.

    Attributes:
        prompt_tokens: of the question, its pictures included.
        tokens: made so far.
        finish_reason: why it ended; None while it is under way.
        seconds_to_first: from the question to the first token; None before.
        seconds: from the question to the last token so far.
    """

    def __init__(
        self, tokens: Generator[int, None, FinishReason], add: Callable[[int], str], prompt_tokens: int
    ) -> None:
        """Take the tokens as they are chosen; `add` gives the characters that a token completes."""
        self.prompt_tokens, self.tokens = prompt_tokens, 0
        self.finish_reason: FinishReason | None = None
        self.seconds_to_first: float | None = None
        self.seconds = 0.0
        self._source, self._add = tokens, add
        self._pieces: list[str] = []
        self._start = time.perf_counter()

    def __next__(self) -> str:
        """The next piece, never empty.

        Raises:
            WorkError: a graph failed.
        """
        while True:
            try:
                token = next(self._source)
            except StopIteration as end:
                self.finish_reason = self.finish_reason or end.value
                raise StopIteration from None
            self.tokens += 1
            self.seconds = time.perf_counter() - self._start
            if self.seconds_to_first is None:
                self.seconds_to_first = self.seconds
            piece = self._add(token)
            if piece:
                self._pieces.append(piece)
                return piece

    @property
    def text(self) -> str:
        """The whole answer; what has not been iterated over yet is waited for."""
        for _ in self:
            pass
        return "".join(self._pieces)
