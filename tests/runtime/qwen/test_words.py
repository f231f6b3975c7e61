"""Streamed words equal the tokenizer's decoding, and never hold half a character."""

from __future__ import annotations

import random

from tokenizers import Tokenizer

from unipic2_edge.runtime.qwen.words import Words, stream_words

from .small_tokenizer import CORPUS, SPECIAL

TEXTS = [*CORPUS[:4], "👩\u200d👩\u200d👧 ü 日本語 \x00\n", "<tool_call>x</tool_call> naïve"]


def test_text_comes_back_whole(tokenizer: Tokenizer) -> None:
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        pieces = list(stream_words(ids, tokenizer))
        assert "".join(pieces) == text
        assert all(pieces)
        assert "\ufffd" not in "".join(pieces)


def test_a_character_is_given_when_its_last_byte_is_there(tokenizer: Tokenizer) -> None:
    words, ids = Words(tokenizer), tokenizer.encode("𓀀").ids  # no merges: four tokens
    assert [words.add(token) for token in ids] == ["", "", "", "𓀀"]


def test_random_tokens_equal_the_tokenizers_decoding(tokenizer: Tokenizer) -> None:
    rng = random.Random(0)
    for _ in range(300):
        ids = [rng.randrange(tokenizer.get_vocab_size()) for _ in range(rng.randint(0, 40))]
        whole = tokenizer.decode(ids, skip_special_tokens=True)
        given = "".join(stream_words(ids, tokenizer))
        assert whole.startswith(given)
        assert set(whole[len(given) :]) <= {"\ufffd"}  # a character that the end cut off
        assert len(whole) - len(given) <= 1


def test_special_and_unknown_tokens_have_no_words(tokenizer: Tokenizer) -> None:
    special = [tokenizer.token_to_id(token) for token in SPECIAL]
    assert list(stream_words([*special, 479], tokenizer)) == []
