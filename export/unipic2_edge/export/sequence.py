"""The denoiser as a pure sequence model, in two graphs: modulation (once a picture) and denoiser (every step).

The adaLN weights see only timestep and pooled text, so they are taken out of the blocks and computed for all
steps at once; what is left takes patches and positions, whatever the picture's shape. The mathematics is that
of `KontextTransformer`, unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from unipic2_edge.training.transformer import KontextTransformer


class Modulation(nn.Module):
    """timestep [T], pooled [B, P], context [B, L, J] → modulation [T, B, M], embedded context [B, L, D]."""

    def __init__(self, transformer: KontextTransformer, projection: nn.Linear) -> None:
        super().__init__()
        embedding = transformer.time_text_embed
        self.time_proj = embedding.time_proj
        self.timestep_embedder = embedding.timestep_embedder
        self.text_embedder = embedding.text_embedder
        self.context_embedder = transformer.context_embedder
        self.modulation = projection

    def forward(self, timestep: Tensor, pooled: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Every step's modulation in one call; the sinusoids stay in float32, as in diffusers."""
        times = self.timestep_embedder(self.time_proj(timestep).to(pooled.dtype))  # [T, D]
        texts = self.text_embedder(pooled)  # [B, D]
        embedding = functional.silu(times[:, None] + texts[None])  # [T, B, D]
        return self.modulation(embedding), self.context_embedder(context)


class SequenceDenoiser(nn.Module):
    """patches [B, N, C·p·p], positions [N, D], context [B, L, D], modulation [B, M] → velocity [B, N, C·p·p]."""

    def __init__(self, transformer: KontextTransformer) -> None:
        super().__init__()
        self.patch_embedder = _patch_embedder(transformer)
        self.transformer_blocks = transformer.transformer_blocks
        self.norm_out = transformer.norm_out
        self.proj_out = _packed_projection(transformer)

    def forward(self, patches: Tensor, positions: Tensor, context: Tensor, modulation: Tensor) -> Tensor:
        """One forward; a reference's patches stand before the noisy ones and get a velocity that nobody reads."""
        tokens = self.patch_embedder(patches) + positions  # [B, N, D]
        for block in self.transformer_blocks:
            context, tokens = block(hidden_states=tokens, encoder_hidden_states=context, temb=modulation)
        velocity: Tensor = self.proj_out(self.norm_out(tokens, modulation))
        return velocity


def split(transformer: KontextTransformer) -> tuple[Modulation, SequenceDenoiser]:
    """Take a transformer apart into its two graphs. The transformer is used up: its modules move into them."""
    projection = _take_modulation(transformer)
    return Modulation(transformer, projection).eval(), SequenceDenoiser(transformer).eval()


class _Slice(nn.Module):
    """Stands where an adaLN linear stood: cuts its part out of the modulation that was computed beforehand."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, modulation: Tensor) -> Tensor:
        return modulation[:, self.start : self.stop]


def _take_modulation(transformer: KontextTransformer) -> nn.Linear:
    """Move every adaLN linear's rows into one linear D → M, leaving slices behind."""
    norms = [norm for block in transformer.transformer_blocks for norm in (block.norm1, block.norm1_context)]
    norms.append(transformer.norm_out)
    width = sum(norm.linear.out_features for norm in norms)
    first = norms[0].linear.weight
    projection = nn.Linear(first.shape[1], width, dtype=first.dtype, device="meta").to_empty(device=first.device)
    start = 0
    with torch.no_grad():
        for norm in norms:
            stop = start + norm.linear.out_features
            projection.weight[start:stop] = norm.linear.weight
            projection.bias[start:stop] = norm.linear.bias
            norm.linear, norm.silu = _Slice(start, stop), nn.Identity()  # frees the block's own copy
            start = stop
    return projection


def _patch_embedder(transformer: KontextTransformer) -> nn.Linear:
    """The patch-embedding convolution as a linear over (c, p, q)-ordered patches."""
    convolution = transformer.pos_embed.proj
    weight = convolution.weight.detach().flatten(1)  # [D, C·p·p]
    linear = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(convolution.bias)
    return linear


def _packed_projection(transformer: KontextTransformer) -> nn.Linear:
    """`proj_out` with its rows reordered from (p, q, c) to (c, p, q), so that latents stay packed in the loop."""
    old, patch, channels = transformer.proj_out, transformer.config.patch_size, transformer.out_channels
    rows = torch.arange(old.out_features).reshape(patch, patch, channels).permute(2, 0, 1).flatten()
    linear = nn.Linear(old.in_features, old.out_features, dtype=old.weight.dtype)
    with torch.no_grad():
        linear.weight.copy_(old.weight[rows])
        linear.bias.copy_(old.bias[rows])
    return linear


def position_tensors(table: Tensor) -> dict[str, Tensor]:
    """A position table [max, max, D] as {"x", "y"} [max, D/2] when it is separable, else as {"table"}.

    diffusers' sine-cosine table holds x in the first half of the channels and y in the second; a checkpoint
    whose buffer is anything else keeps the whole table.
    """
    half = table.shape[-1] // 2
    x, y = table[0, :, :half], table[:, 0, half:]
    if torch.equal(table[..., :half], x[None].expand_as(table[..., :half])) and torch.equal(
        table[..., half:], y[:, None].expand_as(table[..., half:])
    ):
        return {"x": x.contiguous(), "y": y.contiguous()}
    return {"table": table.contiguous()}
