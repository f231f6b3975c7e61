"""The recipes that need no file: one for each format, and one for each target."""

from __future__ import annotations

from pathlib import Path

import msgspec

from unipic2_edge.runtime.errors import RecipeError

from .recipes import ComponentRecipe, GateThresholds, LayerRule, Precision, Recipe, read_recipe

#: The matrices of the denoiser's blocks: 99.9 % of its linear FLOPs. Patch embedding, output projection and the
#: modulation graph stay as they are, as in NVIDIA's filters for SD3.
_BLOCKS = "denoiser.transformer_blocks.*"
#: The matrices of what tells the denoiser: T5's and CLIP's layers, Qwen2.5-VL's, the connector's; embeddings and
#: projections stay.
_TEXT = {
    "text_encoder": "text_encoder.*.encoder.layers.*",
    "text_encoder_2": "text_encoder_2.*.encoder.layers.*",
    "text_encoder_3": "text_encoder_3.encoder.block.*",
    "vision": "vision.blocks.*",
    "connector": "connector.connector.layers.*",
    "lm_head": "lm_head",
}
_LANGUAGE = "language.layers.*"
#: 8 bit must keep the pictures, 4 bit may change them a little (velocity, then score).
_GATE_8 = GateThresholds(velocity=0.10, points=2.0, prompts=48)
_GATE_4 = GateThresholds(velocity=0.25, points=5.0, prompts=48)


def _plain(name: str, precision: Precision) -> Recipe:
    return Recipe(name=name, other=ComponentRecipe(precision=precision))


def _recipe(
    name: str,
    denoiser: LayerRule,
    text: LayerRule | None,
    gate: GateThresholds,
    precision: Precision = "bfloat16",
    attention: bool = False,
    language: LayerRule | None = None,
) -> Recipe:
    """The denoiser's blocks by one rule, what tells it by another, the autoencoder as it is.

    The language model, which is the largest of all, may have a rule of its own.
    """
    components = {
        "denoiser": ComponentRecipe(
            precision=precision,
            rules=(msgspec.structs.replace(denoiser, layers=_BLOCKS),),
            attention="fp8" if attention else None,
        )
    }
    if text is not None:
        rules = {component: (text, layers) for component, layers in _TEXT.items()}
        for component, (wanted, layers) in (rules | {"language": (language or text, _LANGUAGE)}).items():
            rule = msgspec.structs.replace(wanted, layers=layers)
            components[component] = ComponentRecipe(precision=precision, rules=(rule,))
    return Recipe(name=name, components=components, other=ComponentRecipe(precision=precision), gate=gate)


_INT8 = LayerRule(layers="*", weights="int8", activations="int8", method="smoothquant")
_INT8_WEIGHT = LayerRule(layers="*", weights="int8")
_FP8 = LayerRule(layers="*", weights="fp8", activations="fp8")
_FP8_WEIGHT = LayerRule(layers="*", weights="fp8")
_INT4 = LayerRule(layers="*", weights="int4", block=128, method="awq")
_INT4_WEIGHT = LayerRule(layers="*", weights="int4", block=128)
_NVFP4 = LayerRule(layers="*", weights="nvfp4", activations="nvfp4")
_NVFP4_WEIGHT = LayerRule(layers="*", weights="nvfp4")
_SVD = LayerRule(layers="*", weights="int4", block=64, method="awq", rank=32)

_MADE = (
    _plain("fp32", "float32"),
    _plain("fp16", "float16"),
    _plain("bf16", "bfloat16"),
    _recipe("int8", _INT8, _INT8_WEIGHT, _GATE_8),
    _recipe("int8-weight", _INT8_WEIGHT, _INT8_WEIGHT, _GATE_8),
    _recipe("fp8", _FP8, _FP8_WEIGHT, _GATE_8),
    _recipe("fp8-attention", _FP8, _FP8_WEIGHT, _GATE_8, attention=True),
    _recipe("int4", _INT4, _INT8_WEIGHT, _GATE_4, language=_INT4_WEIGHT),
    _recipe("int4-weight", _INT4_WEIGHT, _INT4_WEIGHT, _GATE_4),
    _recipe("nvfp4", _NVFP4, _FP8_WEIGHT, _GATE_4, language=_NVFP4_WEIGHT),
    _recipe("nvfp4-weight", _NVFP4_WEIGHT, _FP8_WEIGHT, _GATE_4, language=_NVFP4_WEIGHT),
    _recipe("svdquant", _SVD, _INT8_WEIGHT, _GATE_4),
)
RECIPES = {recipe.name: recipe for recipe in _MADE}
#: Where `--recipe auto` starts: text encoders in 8 bit, the denoiser's rules to be found.
AUTO = _recipe("auto", LayerRule(layers="*"), _INT8_WEIGHT, GateThresholds())

#: Target → the recipe for it: what its tensor cores multiply fastest without leaving the 8-bit gate; where memory is
#: what a device lacks, weights of 4 bit.
_TARGETS: dict[str, tuple[str, Precision]] = {
    "rtx-20": ("int8-weight", "float16"),
    "rtx-30": ("int8", "bfloat16"),
    "rtx-40": ("fp8", "bfloat16"),
    "rtx-50": ("fp8", "bfloat16"),
    "dgx-spark": ("fp8", "bfloat16"),
    "jetson-orin": ("int4", "bfloat16"),
    "jetson-thor": ("fp8", "bfloat16"),
    "a100": ("int8", "bfloat16"),
    "h100": ("fp8", "bfloat16"),
}


def _for_target(target: str) -> Recipe:
    name, precision = _TARGETS[target]
    return msgspec.structs.replace(RECIPES[name].with_precision(precision), name=target)


RECIPES |= {target: _for_target(target) for target in _TARGETS}
RECIPES["cpu"] = _recipe("cpu", msgspec.structs.replace(_INT8, reduce_range=True), None, _GATE_8, precision="float32")


def find_recipe(text: str) -> Recipe:
    """A recipe by name or file, or one for each component: `fp8`, `mine.json`, `denoiser=fp8,vae=fp16`.

    Components that are not named get the first recipe that is named alone, else bf16.

    Raises:
        RecipeError: there is none of that name, or the file is not a recipe.
    """
    if "=" not in text:
        return _one(text)
    base, parts = _plain(text, "bfloat16"), {}
    for item in text.split(","):
        component, separator, name = item.partition("=")
        if separator:
            parts[component] = _one(name).of(component)
        else:
            base = _one(item)
    return msgspec.structs.replace(base, name=text, components=base.components | parts)


def _one(name: str) -> Recipe:
    if name in RECIPES:
        return RECIPES[name]
    if name.endswith(".json") or Path(name).is_file():
        return read_recipe(Path(name))
    raise RecipeError(f"there is no export recipe {name!r}", f"use one of {', '.join(RECIPES)}, or a recipe file")
