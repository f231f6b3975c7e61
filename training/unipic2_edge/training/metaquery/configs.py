"""The sizes of UniPic2-Metaquery: one entry per checkpoint name, one config per component, in published terms."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..configs import KONTEXT, SCHEDULER, Config


@dataclass(frozen=True)
class MetaqueryConfig:
    """Everything needed to build UniPic2-Metaquery at one size.

    `qwen` is a whole Qwen2_5_VLConfig, every field said; `conditioner` is the published conditioner/config.json.
    `special_start` is the id of the tokenizer's first special token; `pixels` the smallest and largest picture
    that the image processor makes.
    """

    transformer: Config
    vae: Config
    conditioner: Config
    qwen: Config
    special_start: int
    pixels: tuple[int, int]
    scheduler: Config = field(default_factory=lambda: dict(SCHEDULER))


def _qwen(special: int, text: Config, vision: Config) -> Config:
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


def _conditioner(connector: tuple[int, int, int, int], queries: int, qwen: int, pooled: int, context: int) -> Config:
    """The conditioner's config; `connector` is hidden, intermediate, layers, heads."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return {
        "connector_config": dict(zip(names, connector, strict=True)),
        "num_queries": queries,
        "llm_hidden_size": qwen,
        "pooled_projection_dim": pooled,
        "joint_attention_dim": context,
    }


#: Where the tokens that the model must know stand among the tokenizer's special tokens.
_QWEN_SPECIAL_PLACES = {
    "vision_start_token_id": 9,
    "vision_end_token_id": 10,
    "image_token_id": 12,
    "video_token_id": 13,
}


#: The 9 B model, as published (config values: Qwen/Qwen2.5-VL-7B-Instruct, Skywork/UniPic2-Metaquery-9B).
_UNIPIC2 = MetaqueryConfig(
    transformer=KONTEXT["unipic2-sd3.5m-kontext"].transformer,
    vae=KONTEXT["unipic2-sd3.5m-kontext"].vae,
    conditioner=_conditioner((1536, 8960, 24, 24), 256, 3584, 2048, 4096),
    qwen=_qwen(
        151643,
        {
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 128000,
            "max_window_layers": 28,
            "mrope_section": [16, 24, 24],
        },
        {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
    ),
    special_start=151643,
    pixels=(56 * 56, 28 * 28 * 16384),
)

#: The shipped model: 64×64 pictures, seen as 16 tokens by the language model.
_SHAPES_METAQUERY = MetaqueryConfig(
    transformer=KONTEXT["shapes-kontext"].transformer,
    vae=KONTEXT["shapes-kontext"].vae,
    conditioner=_conditioner((192, 768, 2, 3), 33, 192, 192, 192),  # a query for each token of its CLIP and T5
    qwen=_qwen(
        960,
        {
            "vocab_size": 1024,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "max_position_embeddings": 1024,
            "max_window_layers": 4,
            "mrope_section": [8, 12, 12],
        },
        {
            "depth": 4,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_heads": 4,
            "fullatt_block_indexes": [1, 3],
        },
    ),
    special_start=960,
    pixels=(112 * 112, 28 * 28 * 64),
)

#: Random-weight smallest form, for tests.
_TINY_METAQUERY = MetaqueryConfig(
    transformer=KONTEXT["tiny-kontext"].transformer,
    vae=KONTEXT["tiny-kontext"].vae,
    conditioner=_conditioner((64, 128, 2, 2), 8, 128, 192, 192),
    qwen=_qwen(
        960,
        {
            "vocab_size": 1024,
            "hidden_size": 128,
            "intermediate_size": 192,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 1024,
            "max_window_layers": 2,
            "mrope_section": [8, 12, 12],
        },
        {
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_heads": 2,
            "fullatt_block_indexes": [1],
        },
    ),
    special_start=960,
    pixels=(112 * 112, 28 * 28 * 64),
)

METAQUERY: dict[str, MetaqueryConfig] = {
    "unipic2-metaquery": _UNIPIC2,
    "shapes-metaquery": _SHAPES_METAQUERY,
    "tiny-metaquery": _TINY_METAQUERY,
}
