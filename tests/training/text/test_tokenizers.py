"""The tokenizer files: every word one token, any text encodes, and both libraries agree."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.configs import KONTEXT
from unipic2_edge.training.errors import WorkError
from unipic2_edge.training.layout import TOKENIZERS
from unipic2_edge.training.text.corpus import sentences
from unipic2_edge.training.text.tokenizers import clip_tokenizer, t5_tokenizer

LONGEST = "a red circle, a blue square and a green ring on a white background"


def test_the_longest_caption_just_fits(tiny_checkpoint: Checkpoint) -> None:
    lengths = [
        len(Tokenizer.from_file(str(tiny_checkpoint.path(name) / "tokenizer.json")).encode(LONGEST).ids)
        for name in TOKENIZERS
    ]
    assert lengths == [17, 17, 16] == tiny_checkpoint.tokenizers().lengths


@pytest.mark.parametrize("text", [*sentences(3, seed=9), "Größe! 12 дом 日本", ""])
def test_transformers_and_tokenizers_agree(tiny_checkpoint: Checkpoint, text: str) -> None:
    for name, ids in zip(TOKENIZERS, tiny_checkpoint.tokenizers()([text]), strict=True):
        plain = Tokenizer.from_file(str(tiny_checkpoint.path(name) / "tokenizer.json")).encode(text).ids
        padded = ids[0].tolist()
        assert padded[: min(len(plain), len(padded) - 1)] == plain[: len(padded) - 1]


def test_special_ids_are_those_of_the_configs(tiny_checkpoint: Checkpoint) -> None:
    config = KONTEXT["tiny-kontext"]
    first, second, third = tiny_checkpoint.tokenizers()(["a red circle"])
    start, end = config.text_encoder["bos_token_id"], config.text_encoder["eos_token_id"]
    assert first[0, 0] == second[0, 0] == start
    assert (first[0, 4:] == end).all()  # padded with the end token
    assert second[0, 4] == end
    assert (second[0, 5:] == 0).all()  # padded with "!"
    assert third[0, 3] == 1
    assert (third[0, 4:] == 0).all()


def test_a_vocabulary_without_room_is_refused() -> None:
    texts = list(sentences(50))
    with pytest.raises(WorkError, match="room"):
        clip_tokenizer(texts, 520, 17, "!")
    with pytest.raises(WorkError, match="room"):
        t5_tokenizer(texts, 100, 16)
