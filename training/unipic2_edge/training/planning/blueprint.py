"""A recipe's models on the meta device, at any size: what is trained, what is frozen, and a micro-batch's way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    DynamicCache,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    T5Config,
    T5EncoderModel,
)

from ..autoencoder import Reconstruction
from ..configs import KONTEXT, KontextConfig
from ..errors import RecipeError
from ..metaquery.conditioner import MetaQueryConditioner
from ..metaquery.configs import METAQUERY, MetaqueryConfig
from ..recipe import Recipe
from ..skeleton import without_memory
from ..text.stage import TextEncoders
from ..transformer import KontextTransformer
from ..variants import Variants

_PROMPT = 48  # tokens of a prompt around the picture's, roughly
_ANSWER = 24


@dataclass(frozen=True)
class Micro:
    """A micro-batch's shape: pictures of width × height in pixels, with a reference or without."""

    rows: int
    width: int
    height: int
    edit: bool


@dataclass(frozen=True)
class Blueprint:
    """A stage's models without memory.

    Args:
        trained: by part, what the loop holds (frozen parameters inside are the stage's own choice).
        frozen: by part, what stands beside it, whole on every device.
        computing: what `forward` runs.
        forward: a micro-batch's forward pass, in the dtype of the trained parts; what is returned gets gradients.
        extra_flops: what a micro-batch costs that `forward` leaves out.
        besides: what costs time that is not counted at all.
    """

    trained: dict[str, nn.Module]
    frozen: dict[str, nn.Module]
    computing: list[nn.Module]
    forward: Callable[[Micro], Tensor]
    extra_flops: Callable[[Micro], float] = field(default=lambda micro: 0.0)
    besides: str = ""


def blueprint(recipe: Recipe, dtype: torch.dtype) -> Blueprint:
    """The models of a recipe, those that are trained in `dtype`.

    Raises:
        RecipeError: there is no such config, or the stage cannot be drawn up.
    """
    table: dict[str, Any] = METAQUERY if recipe.stage in _METAQUERY else KONTEXT
    if recipe.config not in table:
        raise RecipeError(f"there is no config {recipe.config}", f"use one of {', '.join(table)}")
    makers: dict[str, Callable[[Any, Recipe, torch.dtype], Blueprint]] = {
        "autoencoder": _autoencoder,
        "text": _text,
        "denoiser": _denoiser,
        "distillation": _distillation,
        "reinforce": _reinforce,
        "vision-language": _vision_language,
        "metaquery": _metaquery,
        "metaquery-joint": _metaquery,
    }
    if recipe.stage not in makers:
        raise RecipeError(f"dry runs do not know the stage {recipe.stage}", f"they know {', '.join(makers)}")
    with without_memory(dtype):
        return makers[recipe.stage](table[recipe.config], recipe, dtype)


_METAQUERY = ("vision-language", "metaquery", "metaquery-joint")


def _autoencoder(config: KontextConfig, recipe: Recipe, dtype: torch.dtype) -> Blueprint:
    model = Reconstruction(AutoencoderKL(**config.vae))
    side = _side(config.vae)

    def forward(micro: Micro) -> Tensor:
        shape = (micro.rows, config.vae["latent_channels"], micro.height // side, micro.width // side)
        decoded: Tensor = model(_empty(dtype, micro.rows, 3, micro.height, micro.width), _empty(dtype, *shape))[0]
        return decoded

    return Blueprint({"vae": model}, {}, [model], forward)


def _text(config: KontextConfig, recipe: Recipe, dtype: torch.dtype) -> Blueprint:
    model = TextEncoders(recipe.config)
    lengths = (config.text_encoder["max_position_embeddings"],) * 2 + (config.t5_length,)

    def forward(micro: Micro) -> Tensor:
        first, second, third = (torch.zeros(micro.rows, n, dtype=torch.long, device="meta") for n in lengths)
        return torch.stack(model((first, second, third)))

    return Blueprint({"text_encoders": model}, {}, [model], forward)


def _denoiser(config: KontextConfig, recipe: Recipe, dtype: torch.dtype) -> Blueprint:
    model: Any = KontextTransformer(**config.transformer)
    if recipe.lora is not None:
        model = Variants(model, ["lora"], recipe.lora, ["lora"])
    denoiser = model if recipe.lora is None else partial(model, "lora")
    words = config.text_encoder["max_position_embeddings"] + config.t5_length

    def forward(micro: Micro) -> Tensor:
        return _velocity(denoiser, config, micro, *_told(config, dtype, micro.rows, words), dtype)

    frozen = {"vae": _vae(config), **_encoders(config, recipe)}
    return Blueprint({"transformer": model}, frozen, [model], forward)


def _distillation(config: KontextConfig, recipe: Recipe, dtype: torch.dtype) -> Blueprint:
    settings = recipe.distillation
    names = ("student", "fake") if settings.method == "cdm" else ("student",)
    adapter = None if settings.full else settings.adapter
    return _variants(config, recipe, dtype, Variants(_denoising(config), names, adapter, names), "student")


def _reinforce(config: KontextConfig, recipe: Recipe, dtype: torch.dtype) -> Blueprint:
    from ..reinforcement.algorithm import POLICY
    from ..reinforcement.stage import make_algorithm  # which brings the rewards with it

    settings = recipe.reinforce
    adapter = settings.lora if settings.weights == "lora" else None
    names = make_algorithm(settings).variants
    return _variants(config, recipe, dtype, Variants(_denoising(config), names, adapter, [POLICY]), POLICY)


def _variants(config: KontextConfig, recipe: Recipe, dtype: torch.dtype, model: Variants, trained: str) -> Blueprint:
    """One pass of the variant with gradients."""
    words = config.text_encoder["max_position_embeddings"] + config.t5_length

    def forward(micro: Micro) -> Tensor:
        told = _told(config, dtype, micro.rows, words)
        return _velocity(partial(model, trained), config, micro, *told, dtype)

    frozen = {"vae": _vae(config), **_encoders(config, recipe)}
    besides = f"one pass of the {trained} alone: those of the others, and rollouts, come on top"
    return Blueprint({"variants": model}, frozen, [model], forward, besides=besides)


def _denoising(config: KontextConfig) -> KontextTransformer:
    made: KontextTransformer = KontextTransformer(**config.transformer)
    return made


def _vision_language(config: MetaqueryConfig, recipe: Recipe, dtype: torch.dtype) -> Blueprint:
    qwen = _qwen(config)

    def forward(micro: Micro) -> Tensor:
        seen = (micro.width // 28) * (micro.height // 28) + _PROMPT + _ANSWER
        hidden = _read(qwen, _empty(dtype, micro.rows, seen, config.qwen["text_config"]["hidden_size"]), None)
        logits: Tensor = qwen.lm_head(hidden[:, -_ANSWER:])
        return logits

    return Blueprint({"qwen2_5_vl": qwen}, {}, [qwen], forward, lambda micro: 3 * _seeing(qwen, micro))


def _metaquery(config: MetaqueryConfig, recipe: Recipe, dtype: torch.dtype) -> Blueprint:
    """The prompt without gradient, the queries and the denoiser with."""
    joint = recipe.stage == "metaquery-joint"
    conditioner = MetaQueryConditioner(**config.conditioner)
    transformer = KontextTransformer(**config.transformer).requires_grad_(joint)
    reader = _qwen(config).requires_grad_(False)

    def forward(micro: Micro) -> Tensor:
        width = config.qwen["text_config"]["hidden_size"]
        cache = DynamicCache(config=reader.config.text_config)
        length = _PROMPT + _seen(micro)
        with torch.no_grad():
            _read(reader, _empty(dtype, micro.rows, length, width), cache)
        queries = conditioner.meta_queries.expand(micro.rows, -1, -1)
        context, pooled = conditioner(_read(reader, queries, cache, length))
        return _velocity(transformer, config, micro, context, pooled, dtype)

    with without_memory(getattr(torch, recipe.frozen_dtype)):
        kept: dict[str, nn.Module] = {"qwen2_5_vl": _qwen(config).requires_grad_(False)}
        if not joint:
            kept["transformer"] = KontextTransformer(**config.transformer).requires_grad_(False)
    trained: dict[str, nn.Module] = {"conditioner": conditioner}
    if joint:
        trained["transformer"] = transformer
    computing = [conditioner, transformer, reader]
    return Blueprint(trained, {"vae": _vae(config)} | kept, computing, forward, lambda micro: _seeing(reader, micro))


def _velocity(
    model: Callable[..., Any],
    config: KontextConfig | MetaqueryConfig,
    micro: Micro,
    context: Tensor,
    pooled: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    side = _side(config.vae)
    shape = (micro.rows, config.transformer["in_channels"], micro.height // side, micro.width // side)
    reference = _empty(dtype, *shape) if micro.edit else None
    times = _empty(dtype, micro.rows)
    velocity: Tensor = model(_empty(dtype, *shape), context, pooled, times, reference, return_dict=False)[0]
    return velocity


def _told(config: KontextConfig, dtype: torch.dtype, rows: int, words: int) -> tuple[Tensor, Tensor]:
    sizes = config.transformer
    return _empty(dtype, rows, words, sizes["joint_attention_dim"]), _empty(dtype, rows, sizes["pooled_projection_dim"])


def _read(qwen: Any, embedded: Tensor, cache: DynamicCache | None, behind: int = 0) -> Tensor:
    """Embeddings [B, S, H] behind `behind` cached ones → last hidden states."""
    places = torch.arange(behind, behind + embedded.shape[1], device="meta").expand(3, len(embedded), -1)
    made = qwen.model.language_model(
        inputs_embeds=embedded, position_ids=places, past_key_values=cache, use_cache=cache is not None
    )
    hidden: Tensor = made.last_hidden_state
    return hidden


def _seen(micro: Micro) -> int:
    """Tokens of the picture that is edited, 28 × 28 pixels each."""
    return (micro.width // 28) * (micro.height // 28) if micro.edit else 0


def _seeing(qwen: Any, micro: Micro) -> float:
    """What the vision tower costs forward: 2 a parameter and patch (four patches a token)."""
    parameters = sum(int(each.numel()) for each in qwen.model.visual.parameters())
    return 2.0 * parameters * 4 * _seen(micro) * micro.rows


def _vae(config: KontextConfig | MetaqueryConfig) -> nn.Module:
    with without_memory(torch.float32):
        made: nn.Module = AutoencoderKL(**config.vae).requires_grad_(False)
    return made


def _encoders(config: KontextConfig, recipe: Recipe) -> dict[str, nn.Module]:
    with without_memory(getattr(torch, recipe.frozen_dtype)):
        made: dict[str, nn.Module] = {
            "text_encoder": CLIPTextModelWithProjection(CLIPTextConfig(**config.text_encoder)),
            "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**config.text_encoder_2)),
            "text_encoder_3": T5EncoderModel(T5Config(**config.text_encoder_3)),
        }
    return {name: model.requires_grad_(False) for name, model in made.items()}


def _qwen(config: MetaqueryConfig) -> Any:
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**config.qwen)).eval()


def _side(vae: dict[str, Any]) -> int:
    """Pixels of one latent."""
    return int(2 ** (len(vae["block_out_channels"]) - 1))


def _empty(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")
