"""Which portions a model's weights are read in, and how each becomes modules of its graphs.

The graphs' modules are first made without memory, for their structure; what is here makes one of their parts
again, in the same way, with the weights as stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from torch import nn

from unipic2_edge.training.skeleton import Skeleton

from .blocks import PatchEmbedding, SequenceBlock, SequenceHead
from .encoders import T5Block, T5Embedding
from .portions import Load
from .sequence import Modulation, packed_projection, patch_projection


def modulation_loads(skeleton: Skeleton, module: Modulation) -> Mapping[str, Load]:
    """The modulation's children, block by block; they are the model's own modules."""
    return {name: partial(skeleton.fill, child) for name, child in _children(module)}


def denoiser_loads(skeleton: Skeleton) -> Mapping[str, Load]:
    """The denoiser's children, block by block."""
    transformer = skeleton.model
    loads: dict[str, Load] = {
        f"transformer_blocks.{index}": partial(_block, skeleton, block)
        for index, block in enumerate(transformer.transformer_blocks)
    }
    return loads | {"embedding": partial(_embedding, skeleton), "head": partial(_head, skeleton)}


def t5_loads(skeleton: Skeleton, length: int) -> Mapping[str, Load]:
    """T5's embedding, blocks and last norm, under their names in the encoder."""
    encoder = skeleton.model.encoder
    loads: dict[str, Load] = {
        f"block.{index}": partial(_t5_block, skeleton, block) for index, block in enumerate(encoder.block)
    }
    return loads | {
        "embedding": partial(_t5_embedding, skeleton, length),
        "final_layer_norm": partial(skeleton.fill, encoder.final_layer_norm),
    }


def _block(skeleton: Skeleton, block: Any) -> nn.Module:
    adaln = (block.norm1.linear, block.norm1_context.linear)  # they belong to the modulation
    return SequenceBlock(skeleton.fill(block, without=adaln))


def _embedding(skeleton: Skeleton) -> nn.Module:
    return PatchEmbedding(patch_projection(skeleton.fill(skeleton.model.pos_embed.proj)))


def _head(skeleton: Skeleton) -> nn.Module:
    transformer = skeleton.model
    return SequenceHead(packed_projection(skeleton.fill(transformer.proj_out), transformer.config.patch_size))


def _t5_block(skeleton: Skeleton, block: Any) -> nn.Module:
    return T5Block(skeleton.fill(block))


def _t5_embedding(skeleton: Skeleton, length: int) -> nn.Module:
    attention = skeleton.model.encoder.block[0].layer[0].SelfAttention
    filled = skeleton.fill(attention, without=(attention.q, attention.k, attention.v, attention.o))
    return T5Embedding(skeleton.fill(skeleton.model.encoder.embed_tokens), filled, length)


def _children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The children by name, those of lists one by one."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f"{name}.{index}", one) for index, one in enumerate(child))
        else:
            yield name, child
