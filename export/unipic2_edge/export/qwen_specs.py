"""The signatures of UniPic2-Metaquery's own graphs: eyes, language model, its head, and the connector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from unipic2_edge.runtime.bundle import TensorSpec
from unipic2_edge.training.metaquery.conditioner import MetaQueryConditioner

from .connector import ConnectorHead
from .graph_specs import IN_MEMORY, GraphSpec, Stage, graph_spec, portion, tensor_spec, whole_graph
from .portions import Load
from .qwen_language import LanguageBlock, LanguageHead, StaticLanguageBlock
from .qwen_vision import VisionBlock, VisionEmbedding, VisionMerger

_FLOAT = torch.float32
_SCATTER_OPSET = 24  # where ONNX's TensorScatter appeared


def vision_spec(visual: Any, dtype: torch.dtype, loads: Mapping[str, Load] = IN_MEMORY) -> GraphSpec:
    """`vision`: a picture's patches in windows → its tokens in order.

    Args:
        visual: transformers' vision tower, or its skeleton.
        dtype: of the products.
        loads: how `patch_embed`, `blocks.N` and `merger` are read.
    """
    config = visual.config
    slots = (config.window_size // config.patch_size) ** 2
    width, angle = config.hidden_size, config.hidden_size // config.num_heads
    values = config.in_channels * config.temporal_patch_size * config.patch_size**2
    patches = tensor_spec("patches", dtype, "windows", slots, values)
    angles = tuple(tensor_spec(name, _FLOAT, "windows", slots, angle) for name in ("rope_cos", "rope_sin"))
    bias = tensor_spec("key_bias", _FLOAT, "windows", slots)
    restore = tensor_spec("restore_index", torch.int64, "image_tokens")
    states = tensor_spec("states", dtype, "windows", slots, width)
    tokens = tensor_spec("image_embeds", dtype, "image_tokens", config.out_hidden_size)
    blocks = [
        Stage(
            f"blocks.{index}",
            VisionBlock(block, index in config.fullatt_block_indexes),
            (states, *angles, bias),
            (states,),
            portion(loads, f"blocks.{index}"),
        )
        for index, block in enumerate(visual.blocks)
    ]
    embedding = VisionEmbedding(visual.patch_embed.proj)
    stages = (
        Stage("patch_embed", embedding, (patches,), (states,), portion(loads, "patch_embed")),
        *blocks,
        Stage("merger", VisionMerger(visual.merger), (states, restore), (tokens,), portion(loads, "merger")),
    )
    return graph_spec("vision", "vision", stages, (patches, *angles, bias, restore), (tokens,))


def language_specs(
    model: Any,
    dtype: torch.dtype,
    cache_length: int | None = None,
    loads: Callable[[type[LanguageBlock]], Mapping[str, Load]] = lambda kind: IN_MEMORY,
) -> tuple[GraphSpec, ...]:
    """`language`, and with a cache's length `language_static`, which have the same weights.

    Args:
        model: transformers' language model (its decoder, without the head), or its skeleton.
        dtype: of the products; sums are float32 in float16.
        cache_length: T of the static graph.
        loads: how `layers.N` (as blocks of a kind) and `norm` are read.
    """
    grown = _language(model, dtype, None, loads(LanguageBlock))
    if cache_length is None:
        return (grown,)
    fixed = _language(model, dtype, cache_length, loads(StaticLanguageBlock))
    return grown, replace(fixed, weights=grown.name, opset=_SCATTER_OPSET)


def _language(model: Any, dtype: torch.dtype, length: int | None, loads: Mapping[str, Load]) -> GraphSpec:
    config = model.config
    states_dtype = _FLOAT if dtype == torch.float16 else dtype
    angle = model.layers[0].self_attn.head_dim
    words = tensor_spec("inputs_embeds", states_dtype, "batch", "sequence", config.hidden_size)
    states = tensor_spec("states", states_dtype, "batch", "sequence", config.hidden_size)
    angles = tuple(tensor_spec(name, _FLOAT, "batch", "sequence", angle) for name in ("rope_cos", "rope_sin"))
    bias = tensor_spec("attention_bias", _FLOAT, "batch", 1, "sequence", length or "total")
    select = tensor_spec("select_index", torch.int64, "selected")
    write = (tensor_spec("write_index", torch.int64, "batch"),) if length else ()
    hidden = tensor_spec("hidden", dtype, "batch", "selected", config.hidden_size)
    stages: list[Stage] = []
    caches: list[TensorSpec] = []
    made: list[TensorSpec] = []
    for index, layer in enumerate(model.layers):
        old, new = _caches(index, config.num_key_value_heads, angle, dtype, length)
        block = LanguageBlock(layer) if length is None else StaticLanguageBlock(layer)
        first = words if index == 0 else states
        inputs = (first, *angles, bias, *write, *old)
        path = f"layers.{index}"
        stages.append(Stage(path, block, inputs, (states, *new), portion(loads, path)))
        caches += old
        made += new
    head = Stage("", LanguageHead(model.norm), (states, select), (hidden,), portion(loads, "norm"))
    name = "language" if length is None else "language_static"
    inputs = (words, *angles, bias, select, *write, *caches)
    return graph_spec(name, "language", (*stages, head), inputs, (hidden, *made))


def _caches(
    index: int, pairs: int, angle: int, dtype: torch.dtype, length: int | None
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """A layer's keys and values, as they come in and as they go out."""
    before, after = ("past", "present") if length is None else ("cache", "updated")
    sides = (length or "past", length or "total")
    old, new = (
        tuple(tensor_spec(f"{name}_{kind}_{index}", dtype, "batch", pairs, side, angle) for kind in ("key", "value"))
        for name, side in zip((before, after), sides, strict=True)
    )
    return old, new


def lm_head_spec(head: nn.Linear, dtype: torch.dtype, loads: Mapping[str, Load] = IN_MEMORY) -> GraphSpec:
    """`lm_head`: hidden states to the logits of words; opened only to answer in words."""
    hidden = tensor_spec("hidden", dtype, "batch", "selected", head.in_features)
    logits = tensor_spec("logits", dtype, "batch", "selected", head.out_features)
    return whole_graph("lm_head", "lm_head", head, (hidden,), (logits,), loads)


def connector_spec(
    conditioner: MetaQueryConditioner, dtype: torch.dtype, loads: Mapping[str, Load] = IN_MEMORY
) -> GraphSpec:
    """`connector`: the language model's states at the queries → context and pooled."""
    queries, wide = conditioner.meta_queries.shape
    width = conditioner.projector_1.out_features
    hidden = tensor_spec("hidden", dtype, "batch", queries, wide)
    states = tensor_spec("states", dtype, "batch", queries, width)
    context = tensor_spec("context", dtype, "batch", queries, conditioner.projector_3.out_features)
    pooled = tensor_spec("pooled", dtype, "batch", conditioner.projector_2.out_features)
    layers = [
        Stage(f"connector.layers.{index}", layer, (states,), (states,), portion(loads, f"connector.layers.{index}"))
        for index, layer in enumerate(conditioner.connector.layers)
    ]
    first, head = conditioner.projector_1, ConnectorHead(conditioner.projector_2, conditioner.projector_3)
    stages = (
        Stage("projector_1", first, (hidden,), (states,), portion(loads, "projector_1")),
        *layers,
        Stage("", head, (states,), (context, pooled), portion(loads, "head")),
    )
    return graph_spec("connector", "connector", stages, (hidden,), (context, pooled))
