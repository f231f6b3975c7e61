"""Configs of single components from their few differing numbers; the rest is what every UniPic2 has in common."""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]

#: Where the tokens that the model must know stand among the tokenizer's special tokens.
_QWEN_SPECIAL_PLACES = {
    "vision_start_token_id": 9,
    "vision_end_token_id": 10,
    "image_token_id": 12,
    "video_token_id": 13,
}


def vae(channels: tuple[int, ...], latent_channels: int, sample_size: int, layers: int, groups: int) -> Config:
    """An SD3 autoencoder (AutoencoderKL without the quant convolutions)."""
    return {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels),
        "block_out_channels": channels,
        "layers_per_block": layers,
        "latent_channels": latent_channels,
        "norm_num_groups": groups,
        "sample_size": sample_size,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "force_upcast": True,
    }


def clip(hidden: int, layers: int, heads: int, length: int, vocab: int, act: str, projection: int) -> Config:
    """A CLIP text encoder with projection; start and end of text are the last two ids."""
    return {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": length,
        "hidden_act": act,
        "projection_dim": projection,
        "bos_token_id": vocab - 2,
        "eos_token_id": vocab - 1,
    }


def t5(model: int, key: int, feed_forward: int, layers: int, heads: int, vocab: int) -> Config:
    """A T5 v1.1 encoder."""
    return {
        "vocab_size": vocab,
        "d_model": model,
        "d_kv": key,
        "d_ff": feed_forward,
        "num_layers": layers,
        "num_heads": heads,
        "feed_forward_proj": "gated-gelu",
        "dense_act_fn": "gelu_new",
        "dropout_rate": 0.0,
    }


def qwen(special: int, text: Config, vision: Config) -> Config:
    """A Qwen2.5-VL config; `special` is the id of the tokenizer's first special token."""
    rope = {"rope_type": "default", "type": "default", "rope_theta": 1e6, "mrope_section": text["mrope_section"]}
    sizes = {name: value for name, value in text.items() if name != "mrope_section"}
    ids = {name: special + place for name, place in _QWEN_SPECIAL_PLACES.items()}
    return {
        "text_config": sizes
        | {
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "rms_norm_eps": 1e-6,
            "rope_parameters": rope,
            "attention_dropout": 0.0,
            "use_cache": True,
            "use_sliding_window": False,
            "bos_token_id": special,
            "eos_token_id": special + 2,
            "tie_word_embeddings": False,
        },
        "vision_config": vision
        | {
            "hidden_act": "silu",
            "in_channels": 3,
            "out_hidden_size": text["hidden_size"],
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
            "initializer_range": 0.02,
        },
        "tie_word_embeddings": False,
        **ids,
    }


def conditioner(connector: tuple[int, int, int, int], queries: int, qwen: int, pooled: int, context: int) -> Config:
    """The conditioner's config; `connector` is hidden, intermediate, layers, heads."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return {
        "connector_config": dict(zip(names, connector, strict=True)),
        "num_queries": queries,
        "llm_hidden_size": qwen,
        "pooled_projection_dim": pooled,
        "joint_attention_dim": context,
    }
