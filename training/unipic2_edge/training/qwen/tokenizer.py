"""A tokenizer of the Qwen2 kind, made from a small corpus: byte-level BPE, Qwen's split, special tokens and chat.

Special tokens stand in the published order; in a small vocabulary they come earlier, and unused tokens fill the gap.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import AddedToken, Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from ..errors import WorkError

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END, IMAGE_PAD = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"
_CONTROL = (
    END_OF_TEXT,
    TURN_START,
    TURN_END,
    *("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *(VISION_START, VISION_END, "<|vision_pad|>", IMAGE_PAD, "<|video_pad|>"),
)
_MARKUP = (
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>"),
)
_SYSTEM = "You are a helpful assistant."

#: The chat template of Qwen2.5-VL-7B-Instruct, as published.
CHAT_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    f"<|im_start|>system\n{_SYSTEM}<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SYSTEM_TURN = f"{TURN_START}system\n{_SYSTEM}{TURN_END}\n"


def qwen_tokenizer(texts: Iterable[str], special_start: int, length: int) -> Qwen2Tokenizer:
    """The tokenizer; every word of `texts` becomes one token, with and without the space before it.

    Args:
        texts: what it should know well; anything else encodes as bytes.
        special_start: the id of `<|endoftext|>`, the first special token.
        length: of the longest input, in tokens.

    Raises:
        WorkError: the texts have more words than there is room for before `special_start`.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet(), key=lambda letter: (ord(letter) > 255, ord(letter)))
    merges = _merges([*texts, SYSTEM_TURN, "user", "assistant"])
    tokens = [*letters, *("".join(pair) for pair in merges)]
    if len(tokens) > special_start:
        raise WorkError(
            f"the corpus needs {len(tokens)} tokens, the vocabulary has room for {special_start}", "raise special_start"
        )
    tokens += [f"<|unused{index}|>" for index in range(len(tokens), special_start)]
    added = [AddedToken(token, special=True) for token in _CONTROL]
    added += [AddedToken(token, special=False) for token in _MARKUP]
    return Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        model_max_length=length,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        added_tokens_decoder={special_start + place: token for place, token in enumerate(added)},
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _merges(texts: list[str]) -> list[tuple[str, str]]:
    """Merges until every word is one token, at a line's start as after a space."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(vocab_size=1_000_000, show_progress=False)
    words = sorted({word for text in texts for word in text.split()})
    trained.train_from_iterator([" ".join(words), *words], trainer)
    return [(left, right) for left, right in json.loads(trained.to_str())["model"]["merges"]]
