"""Random weights in the published layout, at any size: everything but picture quality can be tried on them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ConfigMixin, FlowMatchEulerDiscreteScheduler
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from .checkpoint import Checkpoint, position_table, save_checkpoint
from .configs import KONTEXT, RELEASED_DEFAULTS, KontextConfig
from .errors import RequestError
from .layout import LAYOUTS, QWEN
from .metaquery.checkpoint import ConditionerPart
from .metaquery.conditioner import MetaQueryConditioner
from .metaquery.configs import METAQUERY, MetaqueryConfig
from .qwen.random_weights import RandomQwen
from .qwen.tokenizer import qwen_tokenizer
from .randomness import randomise
from .text.corpus import chat_sentences, sentences
from .text.tokenizers import clip_tokenizer, t5_tokenizer
from .transformer import KontextTransformer

_CORPUS = 1500
_SMALL_SIDE = 64  # pixels: what the small models draw by default


def init_checkpoint(
    name: str | KontextConfig | MetaqueryConfig,
    folder: Path,
    components: tuple[str, ...] | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Checkpoint:
    """Write a random checkpoint of a named size or a config of one's own; what has no weights is always there.

    Every tensor is different (equal ones would be merged in a compiled engine, and its size would lie) and
    scaled so that activations stay finite at full depth. Models are made in `dtype` from the start and one
    after another, so the peak is one model.

    Raises:
        RequestError: no such config or component.
        OutputError: the folder exists and is not empty, or cannot be written.
        WorkError: the disk is full.
    """
    config = find_config(name) if isinstance(name, str) else name
    models = LAYOUTS["kontext" if isinstance(config, KontextConfig) else "metaquery"].models
    components = models if components is None else components
    unknown = sorted(set(components) - set(models))
    if unknown:
        raise RequestError(f"there is no component {unknown[0]!r}", f"use some of {', '.join(models)}")
    seeds = {model: seed + index if model in components else None for index, model in enumerate(models)}
    parts: dict[str, Any] = {
        model: _Model(model, config, dtype, model_seed) for model, model_seed in seeds.items() if model != QWEN
    }
    parts["scheduler"] = FlowMatchEulerDiscreteScheduler(**config.scheduler)
    if isinstance(config, KontextConfig):
        parts |= _tokenizers(config)
    else:
        parts[QWEN] = _qwen(config, dtype, seeds[QWEN])
    return save_checkpoint(folder, defaults=_defaults(config), **parts)


def find_config(name: str) -> KontextConfig | MetaqueryConfig:
    """A size by its name.

    Raises:
        RequestError: there is none.
    """
    config = KONTEXT.get(name) or METAQUERY.get(name)
    if config is None:
        raise RequestError(f"there is no config {name!r}", f"use one of {', '.join([*KONTEXT, *METAQUERY])}")
    return config


def _tokenizers(config: KontextConfig) -> dict[str, Any]:
    texts = _first(sentences(_CORPUS), 2 * _CORPUS)
    first, second = (
        clip_tokenizer(texts, encoder["vocab_size"], encoder["max_position_embeddings"], pad)
        for encoder, pad in ((config.text_encoder, "<|endoftext|>"), (config.text_encoder_2, "!"))
    )
    third = t5_tokenizer(texts, config.text_encoder_3["vocab_size"], config.t5_length)
    return {"tokenizer": first, "tokenizer_2": second, "tokenizer_3": third}


def _qwen(config: MetaqueryConfig, dtype: torch.dtype, seed: int | None) -> RandomQwen:
    length = config.qwen["text_config"]["max_position_embeddings"]
    tokenizer = qwen_tokenizer(chat_sentences(_CORPUS), config.special_start, length)
    return RandomQwen(config, tokenizer, dtype, seed)


def _first(texts: Iterator[str], count: int) -> list[str]:
    return list(islice(texts, count))


def _defaults(config: KontextConfig | MetaqueryConfig) -> dict[str, dict[str, Any]]:
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

    def __init__(
        self, component: str, config: KontextConfig | MetaqueryConfig, dtype: torch.dtype, seed: int | None
    ) -> None:
        self.component, self.config, self.dtype, self.seed = component, config, dtype, seed

    def save_pretrained(self, folder: Path) -> None:
        """Make the module with random weights and save it."""
        model = _meta_module(self.component, self.config, self.dtype)
        if self.component == "conditioner" and self.seed is None:
            ConditionerPart(model).save_pretrained(folder)
            return
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
        (ConditionerPart(model) if self.component == "conditioner" else model).save_pretrained(folder)


def _meta_module(component: str, config: KontextConfig | MetaqueryConfig, dtype: torch.dtype) -> Any:
    """The module in its dtype without memory: nothing is initialised twice, or converted."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            return _build(component, config)
    finally:
        torch.set_default_dtype(default)


def _build(component: str, config: KontextConfig | MetaqueryConfig) -> Any:
    if component == "transformer":
        return KontextTransformer(**config.transformer)
    if component == "vae":
        return AutoencoderKL(**config.vae)
    if isinstance(config, MetaqueryConfig):
        return MetaQueryConditioner(**config.conditioner)
    if component == "text_encoder_3":
        return T5EncoderModel(T5Config(**config.text_encoder_3))
    return CLIPTextModelWithProjection(CLIPTextConfig(**getattr(config, component)))


def _save_config(model: Any, folder: Path) -> None:
    """`config.json` as the two libraries write it."""
    if isinstance(model, ConfigMixin):
        model.save_config(folder)
    else:
        model.config.save_pretrained(folder)
