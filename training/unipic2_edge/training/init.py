"""Random weights in the published layout, at any size: everything but picture quality can be tried on them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ConfigMixin, FlowMatchEulerDiscreteScheduler
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from .checkpoint import Checkpoint, position_table, save_checkpoint
from .configs import KONTEXT, RELEASED_DEFAULTS, KontextConfig
from .corpus import sentences
from .errors import RequestError
from .layout import MODELS
from .tokenizers import clip_tokenizer, t5_tokenizer
from .transformer import KontextTransformer

_CORPUS = 1500
_SMALL_SIDE = 64  # pixels: what the small models draw by default


def init_checkpoint(
    name: str,
    folder: Path,
    components: tuple[str, ...] = MODELS,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Checkpoint:
    """Write a random checkpoint of a named size; tokenizers, scheduler and all configs are always there.

    Every tensor is different (equal ones would be merged in a compiled engine, and its size would lie) and
    scaled so that activations stay finite at full depth. Models are made in `dtype` from the start and one
    after another, so the peak is one model.

    Raises:
        RequestError: no such config or component.
        OutputError: the folder exists and is not empty, or cannot be written.
        WorkError: the disk is full.
    """
    if name not in KONTEXT:
        raise RequestError(f"there is no config {name!r}", f"use one of {', '.join(KONTEXT)}")
    unknown = sorted(set(components) - set(MODELS))
    if unknown:
        raise RequestError(f"there is no component {unknown[0]!r}", f"use some of {', '.join(MODELS)}")
    config = KONTEXT[name]
    texts = list(_texts())
    parts: dict[str, Any] = {
        component: _Model(component, config, dtype, seed + index if component in components else None)
        for index, component in enumerate(MODELS)
    }
    parts["scheduler"] = FlowMatchEulerDiscreteScheduler(**config.scheduler)
    for part, encoder, pad in (
        ("tokenizer", config.text_encoder, "<|endoftext|>"),
        ("tokenizer_2", config.text_encoder_2, "!"),
    ):
        parts[part] = clip_tokenizer(texts, encoder["vocab_size"], encoder["max_position_embeddings"], pad)
    parts["tokenizer_3"] = t5_tokenizer(texts, config.text_encoder_3["vocab_size"], config.t5_length)
    return save_checkpoint(folder, defaults=_defaults(config), **parts)


def _texts() -> list[str]:
    """Captions and instructions, cut off at a fixed number."""
    return [text for _, text in zip(range(2 * _CORPUS), sentences(_CORPUS), strict=False)]


def _defaults(config: KontextConfig) -> dict[str, dict[str, Any]]:
    """Small models draw small pictures, the full size the released ones.

    The released negative prompt of editing is left out: a stand-in vocabulary spells it letter by letter, and
    then it is too long.
    """
    task = RELEASED_DEFAULTS["generate"]
    if config.transformer["sample_size"] < 128:
        task = task | {"height": _SMALL_SIDE, "width": _SMALL_SIDE, "num_inference_steps": 28}
    return {"generate": task, "edit": task}


class _Model:
    """A component that is made only when it is saved, and let go right after; without a seed its config alone."""

    def __init__(self, component: str, config: KontextConfig, dtype: torch.dtype, seed: int | None) -> None:
        self.component, self.config, self.dtype, self.seed = component, config, dtype, seed

    def save_pretrained(self, folder: Path) -> None:
        """Make the module with random weights and save it."""
        model = _meta_module(self.component, self.config, self.dtype)
        if self.seed is None:
            folder.mkdir()
            _save_config(model, folder)
            return
        model = model.to_empty(device="cpu")
        if hasattr(model, "tie_weights"):
            model.tie_weights()
        randomise(model, self.seed)
        if self.component == "transformer":
            table = position_table(self.config.transformer).flatten(0, 1)[None]  # [1, max·max, D]
            model.pos_embed.pos_embed = table.to(self.dtype)
        model.save_pretrained(folder)


def _meta_module(component: str, config: KontextConfig, dtype: torch.dtype) -> Any:
    """The module in its dtype without memory: nothing is initialised twice, or converted."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            return _build(component, config)
    finally:
        torch.set_default_dtype(default)


def _build(component: str, config: KontextConfig) -> Any:
    if component == "transformer":
        return KontextTransformer(**config.transformer)
    if component == "vae":
        return AutoencoderKL(**config.vae)
    if component == "text_encoder_3":
        return T5EncoderModel(T5Config(**config.text_encoder_3))
    return CLIPTextModelWithProjection(CLIPTextConfig(**getattr(config, component)))


def _save_config(model: Any, folder: Path) -> None:
    """`config.json` as the two libraries write it."""
    if isinstance(model, ConfigMixin):
        model.save_config(folder)
    else:
        model.config.save_pretrained(folder)


@torch.no_grad()
def randomise(model: Any, seed: int) -> None:
    """Fill every parameter: matrices N(0, 1/fan-in), norms' gains near one, biases small; seeded, in place."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            embedding = "embed" in name and name.endswith(("embedding.weight", "shared.weight", "embed_tokens.weight"))
            spread = 1.0 if embedding else 1 / math.sqrt(parameter[0].numel())
            if name.endswith("SelfAttention.q.weight"):  # T5 does not scale its scores: its queries are small
                spread /= math.sqrt(model.config.d_kv)
            parameter.normal_(0, spread, generator=generator)
        elif name.endswith("weight"):
            parameter.normal_(1, 0.02, generator=generator)
        else:
            parameter.normal_(0, 0.02, generator=generator)
    for name, buffer in model.named_buffers():  # to_empty leaves them undefined
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.numel()).view_as(buffer))
