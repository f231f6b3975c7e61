"""A trained adapter as a LoRA file in diffusers' format, which `export --lora` and diffusers' pipelines take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor

from .errors import RecipeError
from .folders import replacing
from .variants import Variants

_PREFIX = "transformer"  # what diffusers calls the denoiser


def write_lora(path: Path, variants: Variants, name: str) -> None:
    """Write a variant's factors to `path`, in float32, with rank, alpha and targets in the file's metadata.

    Raises:
        RecipeError: the variants are full copies.
        OutputError: the file cannot be written.
        WorkError: the disk is full.
    """
    adapter = variants.adapter
    if adapter is None:
        raise RecipeError("full copies of the denoiser have no LoRA to write", "train with an adapter")
    layers: dict[str, Any] = {
        layer: each for layer, each in variants.base.named_modules() if isinstance(each, LoraLayer)
    }
    factors: dict[str, Tensor] = {}
    for layer, each in layers.items():
        for side, parts in (("lora_A", each.lora_A), ("lora_B", each.lora_B)):
            factors[f"{_PREFIX}.{layer}.{side}.weight"] = parts[name].weight.detach().float().cpu().contiguous()
    settings = {"r": adapter.rank, "lora_alpha": adapter.alpha, "target_modules": list(adapter.targets)}
    stored = {f"{_PREFIX}.{setting}": value for setting, value in settings.items()}
    with replacing(path) as temporary:
        save_file(factors, temporary, {"format": "pt", "lora_adapter_metadata": json.dumps(stored)})
