"""Qwen's tokenizer from the shapes corpus, and conversations equal to the published chat template's."""

from __future__ import annotations

from itertools import islice

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, Qwen2Tokenizer

from unipic2_edge.training.errors import WorkError
from unipic2_edge.training.metaquery.checkpoint import MetaqueryCheckpoint
from unipic2_edge.training.metaquery.configs import METAQUERY
from unipic2_edge.training.qwen.chat import IGNORED, Chat
from unipic2_edge.training.qwen.tokenizer import qwen_tokenizer
from unipic2_edge.training.text.corpus import chat_sentences

#: The published ids of Qwen2.5's special tokens.
PUBLISHED = {
    "<|endoftext|>": 151643,
    "<|im_start|>": 151644,
    "<|im_end|>": 151645,
    "<|vision_start|>": 151652,
    "<|vision_end|>": 151653,
    "<|image_pad|>": 151655,
    "<|video_pad|>": 151656,
    "<tool_call>": 151657,
    "<|file_sep|>": 151664,
}
STRANGE = [
    "",
    "  two  spaces",
    "É é ü",
    "日本語の文",
    "🙂 emoji 👩‍👩‍👧",
    "a\n\n\tb\r\n",
    "3141 59",
    "don't STOP!",
    "\x00\x07",
]


@pytest.fixture(scope="module")
def chat(tiny_metaquery: MetaqueryCheckpoint) -> Chat:
    return tiny_metaquery.chat()


def test_special_tokens_stand_in_the_published_order(chat: Chat) -> None:
    start = METAQUERY["tiny-metaquery"].special_start
    for token, published in PUBLISHED.items():
        assert chat.tokenizer.convert_tokens_to_ids(token) - start == published - PUBLISHED["<|endoftext|>"]


@pytest.mark.parametrize("name", METAQUERY)
def test_the_models_config_names_the_tokenizers_ids(name: str) -> None:
    config = METAQUERY[name]
    shift = config.special_start - PUBLISHED["<|endoftext|>"]
    assert config.qwen["image_token_id"] == PUBLISHED["<|image_pad|>"] + shift
    assert config.qwen["video_token_id"] == PUBLISHED["<|video_pad|>"] + shift
    assert config.qwen["vision_start_token_id"] == PUBLISHED["<|vision_start|>"] + shift
    assert config.qwen["vision_end_token_id"] == PUBLISHED["<|vision_end|>"] + shift
    assert config.qwen["text_config"]["eos_token_id"] == PUBLISHED["<|im_end|>"] + shift


@pytest.mark.parametrize("text", [*STRANGE, *islice(chat_sentences(40, seed=9), 100)])
def test_any_text_comes_back_and_the_file_alone_says_the_same(
    text: str, chat: Chat, tiny_metaquery: MetaqueryCheckpoint
) -> None:
    folder = tiny_metaquery.folder / "qwen2_5_vl"
    ids = chat.tokenizer(text).input_ids
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids == ids
    normal = chat.tokenizer.backend_tokenizer.normalizer.normalize_str(text)
    assert chat.tokenizer.decode(ids) == normal


def test_every_word_of_the_world_is_one_token(chat: Chat) -> None:
    ids = chat.tokenizer("what shape is left of the red circle? a cyan triangle").input_ids
    assert len(ids) == len(["what", "shape", "is", "left", "of", "the", "red", "circle", "?", "a", "cyan", "triangle"])


def test_a_small_vocabulary_is_refused() -> None:
    with pytest.raises(WorkError, match="room for 256"):
        qwen_tokenizer(["circle"], 256, 64)


def test_it_opens_as_a_qwen_tokenizer(tiny_metaquery: MetaqueryCheckpoint) -> None:
    opened = AutoTokenizer.from_pretrained(tiny_metaquery.folder / "qwen2_5_vl")
    assert isinstance(opened, Qwen2Tokenizer)
    assert (opened.eos_token, opened.pad_token) == ("<|im_end|>", "<|endoftext|>")


def _template(chat: Chat, turns: list[tuple[str, str | None]], picture: int) -> list[int]:
    messages: list[dict[str, object]] = []
    for number, (question, answer) in enumerate(turns):
        content: list[dict[str, str]] = [{"type": "text", "text": question}]
        messages.append(
            {"role": "user", "content": [{"type": "image"}, *content] if picture and not number else content}
        )
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
    text = chat.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=turns[-1][1] is None)
    text = text.replace("<|image_pad|>", "<|image_pad|>" * picture)
    ids: list[int] = chat.tokenizer(text).input_ids
    return ids


@pytest.mark.parametrize("picture", [0, 4])
@pytest.mark.parametrize("text", ["what color is the ring?", "\n two lines\n", "日本"])
def test_a_prompt_is_the_templates(chat: Chat, text: str, picture: int) -> None:
    assert list(chat.prompt(text, picture, system=True)) == _template(chat, [(text, None)], picture)


def test_without_the_system_prompt_the_rest_is_the_same(chat: Chat) -> None:
    whole, short = chat.prompt("hello", 2, system=True), chat.prompt("hello", 2)
    assert whole[-len(short) :] == short
    assert "system" not in chat.tokenizer.decode(short)


def test_a_conversation_is_the_templates_and_labels_are_its_answers(chat: Chat) -> None:
    turns = [("what color is the ring?", "red"), ("how many rings are there?", "one")]
    made = chat.conversation(turns, image_tokens=4, system=True)
    # The template ends the last turn's line; nothing is learnt from that.
    assert [*made.ids, *chat.tokenizer("\n").input_ids] == _template(chat, [*turns], 4)
    learnt = [token for token, label in zip(made.ids, made.labels, strict=True) if label != IGNORED]
    assert chat.tokenizer.decode(learnt) == "red<|im_end|>one<|im_end|>"
    assert all(label in (IGNORED, token) for token, label in zip(made.ids, made.labels, strict=True))


def test_padding_is_on_the_right_and_not_learnt(chat: Chat) -> None:
    pair = [chat.conversation([("a", "b")]), chat.conversation([("a red ring", "a circle")])]
    ids, labels = chat.padded(pair, multiple=8)
    assert ids.shape == labels.shape
    assert ids.shape[1] % 8 == 0
    short = len(pair[0].ids)
    assert ids[0, short:].unique().tolist() == [chat.pad_id]
    assert labels[0, short:].unique().tolist() == [IGNORED]
