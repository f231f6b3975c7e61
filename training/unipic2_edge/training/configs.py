"""The model sizes: one entry per checkpoint name, one config per component, in the published layout's terms."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

Config = dict[str, Any]

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


def _vae(channels: tuple[int, ...], latent_channels: int, sample_size: int, layers: int, groups: int) -> Config:
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


def _clip(hidden: int, layers: int, heads: int, length: int, vocab: int, act: str, projection: int) -> Config:
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


def _t5(model: int, key: int, feed_forward: int, layers: int, heads: int, vocab: int) -> Config:
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
    vae=_vae((128, 256, 512, 512), 16, 1024, 2, 32) | {"scaling_factor": 1.5305, "shift_factor": 0.0609},
    text_encoder=_clip(768, 12, 12, 77, 49408, "quick_gelu", 768),
    text_encoder_2=_clip(1280, 32, 20, 77, 49408, "gelu", 1280),
    text_encoder_3=_t5(4096, 64, 10240, 24, 64, 32128),
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
    vae=_vae((16, 32, 64), 8, 64, 1, 8) | {"scaling_factor": 1.0, "shift_factor": 0.0},
    text_encoder=_clip(64, 3, 2, 17, 768, "quick_gelu", 64),
    text_encoder_2=_clip(128, 3, 2, 17, 768, "gelu", 128),
    text_encoder_3=_t5(192, 64, 256, 2, 3, 256),
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
    vae=_vae((8, 8, 16), 8, 64, 1, 4) | {"scaling_factor": 1.5305, "shift_factor": 0.0609},
    text_encoder=_clip(64, 2, 2, 17, 768, "quick_gelu", 64),
    text_encoder_2=_clip(128, 2, 2, 17, 768, "gelu", 128),
    text_encoder_3=_t5(192, 64, 256, 2, 3, 256),
    t5_length=16,
)

KONTEXT: dict[str, KontextConfig] = {
    "unipic2-sd3.5m-kontext": _SD35M,
    "shapes-kontext": _SHAPES,
    "tiny-kontext": _TINY,
}


def with_layers(config: KontextConfig, layers: int) -> KontextConfig:
    """The same denoiser with its first layers alone, to time what a machine cannot hold whole."""
    dual = tuple(layer for layer in config.transformer["dual_attention_layers"] if layer < layers)
    return replace(config, transformer=config.transformer | {"num_layers": layers, "dual_attention_layers": dual})
