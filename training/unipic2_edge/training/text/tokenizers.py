"""Tokenizers of the published kinds, made from a small corpus: two CLIP byte-level BPEs and a T5 unigram.

The files are those of the published checkpoints (tokenizer.json and its config), so `transformers`, `tokenizers`
and the light runtime read them alike. Every word of the corpus becomes one token.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer, T5Tokenizer

from ..configs import KontextConfig
from ..errors import WorkError

_START, _END, _BIG_PAD = "<|startoftext|>", "<|endoftext|>", "!"
_WORD_END = "</w>"


def build_tokenizers(corpus: Iterable[str], folder: Path, config: KontextConfig) -> None:
    """Write `tokenizer/`, `tokenizer_2/` and `tokenizer_3/` into `folder`.

    Raises:
        WorkError: the corpus has more words than the config's vocabularies have room for.
    """
    texts = list(corpus)
    for name, encoder, pad in (
        ("tokenizer", config.text_encoder, _END),
        ("tokenizer_2", config.text_encoder_2, _BIG_PAD),
    ):
        clip_tokenizer(texts, encoder["vocab_size"], encoder["max_position_embeddings"], pad).save_pretrained(
            folder / name
        )
    t5_tokenizer(texts, config.text_encoder_3["vocab_size"], config.t5_length).save_pretrained(folder / "tokenizer_3")


def clip_tokenizer(texts: list[str], vocab_size: int, length: int, pad: str) -> CLIPTokenizer:
    """CLIP's byte-level BPE; start and end of text are the last two ids, as in the published vocabulary.

    SD3's second tokenizer pads with "!" (id 0), so that every "!" a user types becomes a pad as well.
    """
    vocab, merges = _byte_pairs(texts, vocab_size - 2)
    vocab |= {_START: vocab_size - 2, _END: vocab_size - 1}
    return CLIPTokenizer(vocab=vocab, merges=merges, pad_token=pad, model_max_length=length)


def _byte_pairs(texts: list[str], room: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The 256 byte letters, the same ending a word, and merges until every word is one token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet(), key=lambda letter: (ord(letter) > 255, ord(letter)))
    alphabet = [*letters, *(letter + _WORD_END for letter in letters)]
    trained = Tokenizer(models.BPE(end_of_word_suffix=_WORD_END))
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", "removed"),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(vocab_size=100_000, end_of_word_suffix=_WORD_END, show_progress=False)
    words = sorted({word for text in texts for word in text.lower().split()})
    trained.train_from_iterator([" ".join(words)], trainer)
    merges = _merges_of(trained)
    tokens = [*alphabet, *("".join(pair) for pair in merges)]  # only a pair's right half can end a word
    if len(tokens) > room:
        raise WorkError(
            f"the corpus needs {len(tokens)} tokens, the vocabulary has room for {room}", "raise vocab_size"
        )
    tokens += [f"<|unused{index}|>" for index in range(len(tokens), room)]
    return {token: index for index, token in enumerate(tokens)}, merges


def _merges_of(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]


def t5_tokenizer(texts: list[str], vocab_size: int, length: int) -> T5Tokenizer:
    """T5's unigram: a piece for every word, and single characters so that any Latin text encodes.

    Scores are log-probabilities: words by their frequency, characters far below.
    """
    words = Counter(word for text in texts for word in text.lower().replace(",", " ").split())
    total = sum(words.values())
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -12.0)]
    pieces += [(f"▁{word}", math.log(count / total)) for word, count in sorted(words.items())]
    characters = [chr(code) for code in range(33, 127)]
    pieces += [(character, -3.0 if character == "," else -14.0) for character in characters]
    if len(pieces) > vocab_size:
        raise WorkError(
            f"the corpus needs {len(pieces)} pieces, the vocabulary has room for {vocab_size}",
            "raise vocab_size",
        )
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=length)
