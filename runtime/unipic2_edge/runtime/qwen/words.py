"""Token ids → text as it comes, whole characters only.

A character of several bytes may be spread over tokens; it is given when its last byte is there. What is given,
put together, equals the tokenizer's own decoding (special tokens left out), but for a character cut off at the end.
(tokenizers' DecodeStream holds more than half a character back: measured, it lost the last words of random streams.)
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from functools import lru_cache

from tokenizers import Tokenizer


class Words:
    """The words of one answer.

    Args:
        tokenizer: a byte-level one, as Qwen's.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._special = frozenset(number for number, token in added.items() if token.special)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        """The characters that this token completes, "" when there are none."""
        if token in self._special:
            return ""
        return self._decoder.decode(_to_bytes(self._tokenizer.id_to_token(token) or ""))


def stream_words(tokens: Iterable[int], tokenizer: Tokenizer) -> Iterator[str]:
    """Pieces of text, none of them empty, as the tokens come."""
    words = Words(tokenizer)
    for token in tokens:
        if piece := words.add(token):
            yield piece


def _to_bytes(token: str) -> bytes:
    alphabet = _alphabet()
    if all(letter in alphabet for letter in token):
        return bytes(alphabet[letter] for letter in token)
    return token.encode()  # an added token stands as it is written


@lru_cache(maxsize=1)
def _alphabet() -> dict[str, int]:
    """The letter that byte-level vocabularies write for each byte: itself if printable, else one above 255.

    Source: `bytes_to_unicode` of GPT-2.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    letters.update((chr(256 + place), byte) for place, byte in enumerate(others))
    return letters
