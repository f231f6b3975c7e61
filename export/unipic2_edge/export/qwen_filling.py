"""Which portions the weights of MetaQuery's own graphs are read in (see `filling.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from unipic2_edge.training.skeleton import Skeleton

from .connector import ConnectorHead
from .portions import Load
from .qwen_language import LanguageBlock, LanguageHead
from .qwen_vision import VisionBlock, VisionEmbedding, VisionMerger


def vision_loads(skeleton: Skeleton) -> Mapping[str, Load]:
    """The vision tower's embedding, blocks and merger, from a whole Qwen2.5-VL."""
    visual = skeleton.model.model.visual
    full = visual.config.fullatt_block_indexes
    loads: dict[str, Load] = {
        f"blocks.{index}": partial(_vision_block, skeleton, block, index in full)
        for index, block in enumerate(visual.blocks)
    }
    return loads | {
        "patch_embed": partial(_vision_embedding, skeleton, visual.patch_embed.proj),
        "merger": partial(_vision_merger, skeleton, visual.merger),
    }


def language_loads(skeleton: Skeleton, kind: type[LanguageBlock]) -> Mapping[str, Load]:
    """The decoder's layers, as blocks of one kind, and its last norm, from a whole Qwen2.5-VL."""
    model = skeleton.model.model.language_model
    loads: dict[str, Load] = {
        f"layers.{index}": partial(_language_block, skeleton, layer, kind) for index, layer in enumerate(model.layers)
    }
    return loads | {"norm": partial(_language_head, skeleton, model.norm)}


def connector_loads(skeleton: Skeleton) -> Mapping[str, Load]:
    """The connector's layers, and the projectors before and behind them."""
    conditioner = skeleton.model
    loads: dict[str, Load] = {
        f"connector.layers.{index}": partial(skeleton.fill, layer)
        for index, layer in enumerate(conditioner.connector.layers)
    }
    return loads | {
        "projector_1": partial(skeleton.fill, conditioner.projector_1),
        "head": partial(_connector_head, skeleton),
    }


def _vision_embedding(skeleton: Skeleton, projection: Any) -> nn.Module:
    return VisionEmbedding(skeleton.fill(projection))


def _vision_block(skeleton: Skeleton, block: Any, full: bool) -> nn.Module:
    return VisionBlock(skeleton.fill(block), full)


def _vision_merger(skeleton: Skeleton, merger: Any) -> nn.Module:
    return VisionMerger(skeleton.fill(merger))


def _language_block(skeleton: Skeleton, layer: Any, kind: type[LanguageBlock]) -> nn.Module:
    return kind(skeleton.fill(layer))


def _language_head(skeleton: Skeleton, norm: Any) -> nn.Module:
    return LanguageHead(skeleton.fill(norm))


def _connector_head(skeleton: Skeleton) -> nn.Module:
    conditioner = skeleton.model
    return ConnectorHead(skeleton.fill(conditioner.projector_2), skeleton.fill(conditioner.projector_3))
