"""Tokenisation against transformers, on tokenizers of the published kinds trained here; nothing is cut off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from unipic2_edge.runtime.bundle import Bundle, TokenizerEntry
from unipic2_edge.runtime.errors import BundleError, RequestError
from unipic2_edge.runtime.tokens import PromptTokenizer, open_tokenizers

CORPUS = [
    "a red circle and a blue square on a white background",
    "make the circle blue! change the color of the red circle to blue.",
    "remove the purple triangle; add a green ring left of it, isn't it?",
] * 8
PROMPTS = ["a red circle", "A RED  Circle!", "", "wow! a ring!!", "éclair 日本 ½", "isn't it, the square's"]
LENGTH = 40


def _clip(path: Path) -> Tokenizer:
    """CLIP's byte-level BPE with end-of-word marks, as in the published tokenizer.json files."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    special = ["!", "<|startoftext|>", "<|endoftext|>"]  # "!" has id 0, as in the published vocabulary
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>", special_tokens=[("<|startoftext|>", 1), ("<|endoftext|>", 2)]
    )
    tokenizer.save(str(path))
    return tokenizer


def _t5(path: Path) -> Tokenizer:
    """T5's unigram with "▁", as in the published tokenizer.json."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(path))
    return tokenizer


def _ours(path: Path, pad_id: int, length: int = LENGTH) -> PromptTokenizer:
    return PromptTokenizer(path.read_bytes(), TokenizerEntry(file=path.name, length=length, pad_id=pad_id))


@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"], ids=["CLIP-L", "CLIP-bigG"])
def test_clip_is_transformers_clip(tmp_path: Path, pad: str) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = _clip(tmp_path / "clip.json")
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "clip.json"),
        bos_token="<|startoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>", pad_token=pad,
    )  # fmt: skip
    expected = theirs(PROMPTS, padding="max_length", max_length=LENGTH, return_tensors="np").input_ids
    ids = _ours(tmp_path / "clip.json", tokenizer.token_to_id(pad))(PROMPTS)
    assert ids.dtype == np.int64
    np.testing.assert_array_equal(ids, expected)
    assert (ids[:, 0] == 1).all()
    assert (ids == 2).any(axis=1).all()


def test_an_exclamation_mark_becomes_the_pad_of_bigg(tmp_path: Path) -> None:
    _clip(tmp_path / "clip.json")
    ids = _ours(tmp_path / "clip.json", pad_id=0)(["a ring! the circle!!"])[0]
    end = int(np.flatnonzero(ids == 2)[0])
    assert (ids[1:end] == 0).sum() == 3
    assert (ids[end + 1 :] == 0).all()


def test_t5_is_transformers_t5(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    _t5(tmp_path / "t5.json")
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "t5.json"), eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    expected = theirs(PROMPTS, padding="max_length", max_length=LENGTH, return_tensors="np").input_ids
    np.testing.assert_array_equal(_ours(tmp_path / "t5.json", 0)(PROMPTS), expected)


def test_a_prompt_that_just_fits_is_read_and_one_token_more_is_refused(bundle: Bundle) -> None:
    tokenizers = open_tokenizers(bundle)
    clip, t5 = tokenizers["text_encoder"], tokenizers["text_encoder_3"]
    assert clip(["a red blue circle"]).tolist() == [[1, 4, 5, 6, 7, 2]]
    assert clip([""]).tolist() == [[1, 2, 0, 0, 0, 0]]
    assert t5(["a red"]).tolist() == [[4, 5, 2, 0, 0]]
    with pytest.raises(RequestError, match="5 tokens, at most 4 fit"):
        clip(["a red blue circle square"])
    with pytest.raises(RequestError, match="5 tokens, at most 4 fit"):
        t5(["red", "a red blue circle square"])


def test_a_truncation_inside_the_file_is_switched_off(bundle: Bundle) -> None:
    entry = TokenizerEntry(file="host/clip.json", length=6, pad_id=0)
    tokenizer = Tokenizer.from_file(str(bundle.path(entry.file)))
    tokenizer.enable_truncation(3)
    with pytest.raises(RequestError, match="too long"):
        PromptTokenizer(tokenizer.to_str().encode(), entry)(["a red blue circle square"])


def test_what_is_no_tokenizer_is_refused(bundle: Bundle) -> None:
    entry = TokenizerEntry(file="host/clip.json", length=6, pad_id=0)
    for data in (b"", b"{}", b"\xff"):
        with pytest.raises(BundleError, match="is not a tokenizer"):
            PromptTokenizer(data, entry)
    with pytest.raises(BundleError, match="no token 999 to pad with"):
        PromptTokenizer(bundle.read(entry.file), TokenizerEntry(file="f", length=6, pad_id=999))
