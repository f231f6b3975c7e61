"""What the host of a MetaQuery bundle looks up itself: Qwen2.5-VL's settings, tokenizer, token table, meta queries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from onnx_ir.tensor_adapters import TorchTensor

from unipic2_edge.runtime.bundle import QueryConditioning
from unipic2_edge.runtime.errors import CheckpointError
from unipic2_edge.runtime.files import write_bytes
from unipic2_edge.runtime.qwen.settings import ChatSettings, QwenSettings, RopeSettings, VisionSettings
from unipic2_edge.training.layout import QWEN
from unipic2_edge.training.metaquery.checkpoint import MetaqueryCheckpoint

from .recipes import Recipe
from .weights import write_weights

_FOLDER = "host/qwen"
_ASKED = "What is this?"


def write_query_part(checkpoint: MetaqueryCheckpoint, bundle: Path, recipe: Recipe) -> QueryConditioning | None:
    """Write the files, as far as the checkpoint has the parts for them.

    Returns:
        Their record, or none where the language model or the conditioner is not there.

    Raises:
        CheckpointError: a part is damaged, or its chat template is another than Qwen2.5-VL's.
    """
    if not (checkpoint.has(QWEN) and checkpoint.has("conditioner")):
        return None
    (bundle / _FOLDER).mkdir()
    dtype = recipe.of("language").dtype
    qwen, conditioner = checkpoint.qwen_skeleton(dtype), checkpoint.conditioner_skeleton()
    embeddings = qwen.fill(qwen.model.model.language_model.embed_tokens).weight.detach()
    others = tuple(conditioner.model.children())
    queries = conditioner.fill(conditioner.model, without=others).meta_queries.detach()
    files = {name: f"{_FOLDER}/{name}" for name in ("settings.json", "tokenizer.json")}
    tables = {name: f"{_FOLDER}/{name}.safetensors" for name in ("token_embeddings", "meta_queries")}
    write_bytes(bundle / files["settings.json"], msgspec.json.format(msgspec.json.encode(_settings(checkpoint))))
    write_bytes(bundle / files["tokenizer.json"], (checkpoint.folder / QWEN / "tokenizer.json").read_bytes())
    for (name, file), table in zip(tables.items(), (embeddings, queries), strict=True):
        write_weights(bundle / file, {name: TorchTensor(table, name=name)})
    config = checkpoint.config("conditioner")
    return QueryConditioning(
        settings=files["settings.json"],
        tokenizer=files["tokenizer.json"],
        embeddings=tables["token_embeddings"],
        queries=tables["meta_queries"],
        count=config["num_queries"],
        context_dim=config["joint_attention_dim"],
        pooled_dim=config["pooled_projection_dim"],
    )


def _settings(checkpoint: MetaqueryCheckpoint) -> QwenSettings:
    """From the configs of the model, of its image processor, and from what its chat template writes.

    Raises:
        CheckpointError: a value is missing or makes no sense.
    """
    config = checkpoint.qwen_config()
    try:
        return QwenSettings(vision=_vision(checkpoint, config), rope=_rope(config), chat=_chat(checkpoint, config))
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{QWEN} of {checkpoint.folder} has a config that makes no sense: {error}", "fetch or make this part again"
        ) from error


def _vision(checkpoint: MetaqueryCheckpoint, config: Any) -> VisionSettings:
    processor, vision = checkpoint.sight().processor, config.vision_config
    return VisionSettings(
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
        window_size=vision.window_size,
        head_dim=vision.hidden_size // vision.num_heads,
        min_pixels=processor.size["shortest_edge"],
        max_pixels=processor.size["longest_edge"],
        mean=tuple(processor.image_mean),
        std=tuple(processor.image_std),
    )


def _rope(config: Any) -> RopeSettings:
    text = config.text_config
    rope = text.rope_parameters
    return RopeSettings(
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        theta=rope["rope_theta"],
        sections=tuple(rope["mrope_section"]),
    )


def _chat(checkpoint: MetaqueryCheckpoint, config: Any) -> ChatSettings:
    """The template's own system prompt stands before questions; the turn around the words must be Qwen's."""
    tokenizer = checkpoint.chat().tokenizer
    settings = ChatSettings(
        image_pad_id=config.image_token_id,
        stop_ids=checkpoint.stop_ids(),
        context=config.text_config.max_position_embeddings,
    )
    message = [{"role": "user", "content": _ASKED}]
    written = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    turn = settings.user_start + _ASKED + settings.turn_end + settings.assistant_start
    if not written.endswith(turn):
        raise CheckpointError(
            f"{QWEN} of {checkpoint.folder} has another chat template than Qwen2.5-VL's", "fetch the published model"
        )
    return msgspec.structs.replace(settings, answer_system=written.removesuffix(turn))
