"""The denoiser as a pure sequence model, in two graphs: modulation (once a picture) and denoiser (every step).

The adaLN weights see only timestep and pooled text, so they are taken out of the blocks and applied for all
steps at once; what is left takes patches and positions, whatever the picture's shape. The mathematics is that
of `KontextTransformer`, unchanged.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention import JointTransformerBlock
from torch import Tensor, nn
from torch.nn import functional

from unipic2_edge.training.transformer import KontextTransformer

from .blocks import ModulationParts, PatchEmbedding, SequenceBlock, SequenceHead


class Modulation(nn.Module):
    """timestep [T], pooled [B, P], context [B, L, J] → modulation [T, B, M], embedded context [B, L, D].

    The modulation holds every adaLN linear's output in the order in which the blocks use them. The two small
    embedders run in float32 unless the precision is float16: bfloat16's 8 bits are few for the sinusoids of
    timesteps up to 1000, float16's 11 are enough, and Turing cards, which run float16 alone, have no 32-bit products.
    """

    def __init__(self, transformer: KontextTransformer) -> None:
        super().__init__()
        embedding = transformer.time_text_embed
        self.time_proj = embedding.time_proj
        narrow = transformer.dtype == torch.float16
        self.precision = torch.float16 if narrow else torch.float32
        self.timestep_embedder = embedding.timestep_embedder.to(self.precision)
        self.text_embedder = embedding.text_embedder.to(self.precision)
        self.context_embedder = transformer.context_embedder
        # The linears alone, under the names they have in the checkpoint.
        self.transformer_blocks = nn.ModuleList(_AdaLN(block) for block in transformer.transformer_blocks)
        self.norm_out = _Linear(transformer.norm_out.linear)
        adaln = [module for name, module in self.named_modules() if name.endswith(".linear")]
        self.width = sum(linear.out_features for linear in adaln if isinstance(linear, nn.Linear))  # M

    def forward(self, timestep: Tensor, pooled: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Every step's modulation in one call."""
        times = self.timestep_embedder(self.time_proj(timestep).to(self.precision))  # [T, D]
        texts = self.text_embedder(pooled.to(self.precision))  # [B, D]
        embedding = functional.silu(times[:, None] + texts[None]).to(context.dtype)  # [T, B, D]
        parts = [part for block in self.transformer_blocks for part in block(embedding)]
        modulation = torch.cat([*parts, self.norm_out.linear(embedding)], dim=-1)  # [T, B, M]
        return modulation, self.context_embedder(context)


class _Linear(nn.Module):
    """An adaLN's linear in the place where the checkpoint names it."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear


class _AdaLN(nn.Module):
    """One block's two adaLN linears: of the image's norm, then of the context's."""

    def __init__(self, block: JointTransformerBlock) -> None:
        super().__init__()
        self.norm1, self.norm1_context = _Linear(block.norm1.linear), _Linear(block.norm1_context.linear)

    def forward(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        return self.norm1.linear(embedding), self.norm1_context.linear(embedding)


class SequenceDenoiser(nn.Module):
    """patches [B, N, C·p·p], positions [N, D], context [B, L, D], modulation [B, M] → velocity [B, N, C·p·p]."""

    def __init__(self, transformer: KontextTransformer) -> None:
        super().__init__()
        self.embedding = PatchEmbedding(patch_projection(transformer.pos_embed.proj))
        self.transformer_blocks = nn.ModuleList(SequenceBlock(block) for block in transformer.transformer_blocks)
        self.head = SequenceHead(packed_projection(transformer.proj_out, transformer.config.patch_size))
        blocks = [block.width for block in self.transformer_blocks if isinstance(block, SequenceBlock)]
        self.parts = ModulationParts((*blocks, transformer.norm_out.linear.out_features))

    def forward(self, patches: Tensor, positions: Tensor, context: Tensor, modulation: Tensor) -> Tensor:
        """One forward; a reference's patches stand before the noisy ones and get a velocity that nobody reads."""
        *parts, last = self.parts(modulation)
        tokens = self.embedding(patches, positions)  # [B, N, D]
        for block, part in zip(self.transformer_blocks[:-1], parts[:-1], strict=True):
            tokens, context = block(tokens, context, part)
        tokens = self.transformer_blocks[-1](tokens, context, parts[-1])
        velocity: Tensor = self.head(tokens, last)
        return velocity


def split(transformer: KontextTransformer) -> tuple[Modulation, SequenceDenoiser]:
    """Take a transformer apart into its two graphs, which share its modules."""
    return Modulation(transformer).eval(), SequenceDenoiser(transformer).eval()


def patch_projection(convolution: Any) -> nn.Linear:
    """The patch-embedding convolution as a linear over (c, p, q)-ordered patches [C·p·p → D]."""
    return _linear(convolution.weight.detach().flatten(1), convolution.bias.detach())


def packed_projection(projection: nn.Linear, patch: int) -> nn.Linear:
    """`proj_out` with its rows reordered from (p, q, c) to (c, p, q), so that latents stay packed in the loop."""
    rows = torch.arange(projection.out_features).reshape(patch, patch, -1).permute(2, 0, 1).flatten()
    rows = rows.to(projection.weight.device)
    return _linear(projection.weight.detach()[rows], projection.bias.detach()[rows])


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight, linear.bias = nn.Parameter(weight), nn.Parameter(bias)
    return linear


def position_tensors(table: Tensor) -> dict[str, Tensor]:
    """A position table [max, max, D] as {"x", "y"} [max, D/2] when it is separable, else as {"table"}.

    diffusers' sine-cosine table holds x in the first half of the channels and y in the second; a checkpoint
    whose buffer is anything else keeps the whole table. Compared as stored, returned in float32.
    """
    half = table.shape[-1] // 2
    x, y = table[0, :, :half], table[:, 0, half:]
    if torch.equal(table[..., :half], x[None].expand_as(table[..., :half])) and torch.equal(
        table[..., half:], y[:, None].expand_as(table[..., half:])
    ):
        return {"x": x.float().contiguous(), "y": y.float().contiguous()}
    return {"table": table.float().contiguous()}
