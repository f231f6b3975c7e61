"""A tiny random Qwen2.5-VL of transformers' own classes, once for a test run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from unipic2_edge.runtime.qwen.settings import ChatSettings, QwenSettings, RopeSettings, VisionSettings
from unipic2_edge.runtime.qwen.tokenizer import open_tokenizer

from .small_tokenizer import SPECIAL, WORDS, train_tokenizer

IMAGE_PAD, VIDEO_PAD, VISION_START, VISION_END, TURN_END = (
    WORDS + SPECIAL.index(f"<|{name}|>") for name in ("image_pad", "video_pad", "vision_start", "vision_end", "im_end")
)
VOCABULARY = 480  # more than the tokenizer has, as published

VISION = VisionSettings(head_dim=16, min_pixels=56 * 56, max_pixels=28 * 28 * 64)
ROPE = RopeSettings(head_dim=16, theta=1e6, sections=(2, 3, 3))
CHAT = ChatSettings(image_pad_id=IMAGE_PAD, stop_ids=(TURN_END,), context=600)
SETTINGS = QwenSettings(vision=VISION, rope=ROPE, chat=CHAT)


@pytest.fixture(scope="session")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Qwen2Tokenizer:
    """transformers' Qwen2Tokenizer with a small vocabulary."""
    return train_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tokenizer(qwen2: Qwen2Tokenizer) -> Tokenizer:
    """The same, from the tokenizer.json that transformers saved."""
    return open_tokenizer((Path(qwen2.name_or_path) / "tokenizer.json").read_bytes())


@pytest.fixture(scope="session")
def tiny() -> Any:
    """Qwen2_5_VLForConditionalGeneration: 2 layers of 64, a vision tower of 2 blocks, weights that matter."""
    rope = {"rope_type": "default", "rope_theta": ROPE.theta, "mrope_section": list(ROPE.sections)}
    special = {
        "image_token_id": IMAGE_PAD,
        "video_token_id": VIDEO_PAD,
        "vision_start_token_id": VISION_START,
        "vision_end_token_id": VISION_END,
    }
    text = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096}
    text |= {"rope_parameters": rope, "rms_norm_eps": 1e-6, "bos_token_id": None, "eos_token_id": None}
    vision = {"depth": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 4, "out_hidden_size": 64}
    vision |= {"window_size": 112, "fullatt_block_indexes": [1], "patch_size": 14, "spatial_merge_size": 2}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **special)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config).eval().float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 1.0 if "embed_tokens" in name else 0.7 / parameter[0].numel() ** 0.5
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) * spread)
    return model
