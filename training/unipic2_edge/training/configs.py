"""The model sizes: one entry per checkpoint name, one config per component, in the published layout's terms."""

from __future__ import annotations

from dataclasses import dataclass, field

from .config_parts import Config, clip, conditioner, qwen, t5, vae

#: The scheduler of every SD3-lineage checkpoint (FlowMatchEulerDiscreteScheduler).
SCHEDULER: Config = {"num_train_timesteps": 1000, "shift": 3.0, "use_dynamic_shifting": False}


_RELEASED: Config = {"height": 384, "width": 512, "num_inference_steps": 50, "guidance_scale": 3.5}
#: What the released scripts use when nothing is said (SkyworkAI/UniPic, UniPic-2).
RELEASED_DEFAULTS: dict[str, Config] = {
    "generate": _RELEASED,
    "edit": _RELEASED
    | {
        "negative_prompt": "blurry, low quality, low resolution, distorted, deformed, broken content, missing parts, "
        "damaged details, artifacts, glitch, noise, pixelated, grainy, compression artifacts, bad composition, wrong "
        "proportion, incomplete editing, unfinished, unedited areas."
    },
}


@dataclass(frozen=True)
class KontextConfig:
    """Everything needed to build UniPic2-SD3.5M-Kontext at one size.

    `text_length` and `t5_length` are the fixed token counts of the CLIPs and of T5.
    """

    transformer: Config
    vae: Config
    text_encoder: Config
    text_encoder_2: Config
    text_encoder_3: Config
    t5_length: int
    scheduler: Config = field(default_factory=lambda: dict(SCHEDULER))


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


#: The 2 B model, as published (config values: stabilityai/stable-diffusion-3.5-medium).
_SD35M = KontextConfig(
    transformer={
        "sample_size": 128,
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": 24,
        "num_attention_heads": 24,
        "attention_head_dim": 64,
        "joint_attention_dim": 4096,
        "caption_projection_dim": 1536,
        "pooled_projection_dim": 2048,
        "pos_embed_max_size": 384,
        "dual_attention_layers": tuple(range(13)),
        "qk_norm": "rms_norm",
    },
    vae=vae((128, 256, 512, 512), 16, 1024, 2, 32) | {"scaling_factor": 1.5305, "shift_factor": 0.0609},
    text_encoder=clip(768, 12, 12, 77, 49408, "quick_gelu", 768),
    text_encoder_2=clip(1280, 32, 20, 77, 49408, "gelu", 1280),
    text_encoder_3=t5(4096, 64, 10240, 24, 64, 32128),
    t5_length=256,
)

#: The shipped model: 64×64 pictures, a ÷4 VAE, 16 image tokens a picture, so that a CPU can train it.
_SHAPES = KontextConfig(
    transformer={
        "sample_size": 32,
        "patch_size": 4,
        "in_channels": 8,
        "out_channels": 8,
        "num_layers": 6,
        "num_attention_heads": 3,
        "attention_head_dim": 64,
        "joint_attention_dim": 192,
        "caption_projection_dim": 192,
        "pooled_projection_dim": 192,
        "pos_embed_max_size": 8,
        "dual_attention_layers": (0, 1, 2),
        "qk_norm": "rms_norm",
    },
    vae=vae((16, 32, 64), 8, 64, 1, 8) | {"scaling_factor": 1.0, "shift_factor": 0.0},
    text_encoder=clip(64, 3, 2, 17, 768, "quick_gelu", 64),
    text_encoder_2=clip(128, 3, 2, 17, 768, "gelu", 128),
    text_encoder_3=t5(192, 64, 256, 2, 3, 256),
    t5_length=16,
)

#: Random-weight smallest form, for tests: every code path, a tenth of a second.
_TINY = KontextConfig(
    transformer=_SHAPES.transformer
    | {
        "num_layers": 2,
        "num_attention_heads": 1,
        "caption_projection_dim": 64,
        "dual_attention_layers": (0,),
    },
    vae=vae((8, 8, 16), 8, 64, 1, 4) | {"scaling_factor": 1.5305, "shift_factor": 0.0609},
    text_encoder=clip(64, 2, 2, 17, 768, "quick_gelu", 64),
    text_encoder_2=clip(128, 2, 2, 17, 768, "gelu", 128),
    text_encoder_3=t5(192, 64, 256, 2, 3, 256),
    t5_length=16,
)

KONTEXT: dict[str, KontextConfig] = {
    "unipic2-sd3.5m-kontext": _SD35M,
    "shapes-kontext": _SHAPES,
    "tiny-kontext": _TINY,
}

#: The 9 B model, as published (config values: Qwen/Qwen2.5-VL-7B-Instruct, Skywork/UniPic2-Metaquery-9B).
_UNIPIC2 = MetaqueryConfig(
    transformer=_SD35M.transformer,
    vae=_SD35M.vae,
    conditioner=conditioner((1536, 8960, 24, 24), 256, 3584, 2048, 4096),
    qwen=qwen(
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
    transformer=_SHAPES.transformer,
    vae=_SHAPES.vae,
    conditioner=conditioner((192, 768, 2, 3), 16, 192, 192, 192),
    qwen=qwen(
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
    transformer=_TINY.transformer,
    vae=_TINY.vae,
    conditioner=conditioner((64, 128, 2, 2), 8, 128, 192, 192),
    qwen=qwen(
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
