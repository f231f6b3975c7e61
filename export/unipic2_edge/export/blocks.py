"""The MMDiT block on tokens, its adaLN modulation computed beforehand (SD3, arXiv 2403.03206, figure 2).

A `SequenceBlock` takes over the submodules of diffusers' `JointTransformerBlock`, so that its weights keep
their published names; the adaLN linears stay behind for the modulation graph.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention import JointTransformerBlock
from torch import Tensor, nn
from torch.nn import functional


class SequenceBlock(nn.Module):
    """tokens [B, N, D], context [B, L, D], modulation [B, m] → tokens and context, or tokens alone.

    The last block of a model returns no context: nothing reads it.
    """

    def __init__(self, block: JointTransformerBlock) -> None:
        super().__init__()
        self.attn, self.attn2 = block.attn, block.attn2
        self.ff, self.ff_context = block.ff, block.ff_context
        self.image_width = block.norm1.linear.out_features  # 6·D, or 9·D with dual attention
        self.width = self.image_width + block.norm1_context.linear.out_features

    def forward(self, tokens: Tensor, context: Tensor, modulation: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """One block; `modulation` holds the image's shifts, scales and gates, then the context's."""
        widths = [self.image_width, self.width - self.image_width]
        image, text = torch.split(modulation[:, None], widths, dim=-1)  # [B, 1, m]
        parts = image.chunk(6 if self.attn2 is None else 9, dim=-1)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = parts[:6]
        normed = _norm(tokens)
        modulated_context = self._modulate_context(context, text)
        attended, attended_context = _joint_attention(self.attn, _modulate(normed, shift, scale), modulated_context)
        tokens = tokens + gate * attended
        if self.attn2 is not None:
            second_shift, second_scale, second_gate = parts[6:]
            tokens = tokens + second_gate * _attention(self.attn2, _modulate(normed, second_shift, second_scale))
        tokens = tokens + mlp_gate * self.ff(_modulate(_norm(tokens), mlp_shift, mlp_scale))
        if self.ff_context is None:
            return tokens
        gate, mlp_shift, mlp_scale, mlp_gate = text.chunk(6, dim=-1)[2:]
        context = context + gate * self.attn.to_add_out(attended_context)
        return tokens, context + mlp_gate * self.ff_context(_modulate(_norm(context), mlp_shift, mlp_scale))

    def _modulate_context(self, context: Tensor, text: Tensor) -> Tensor:
        """The last block's norm (AdaLayerNormContinuous) holds the scale before the shift, all others after it."""
        if self.ff_context is None:
            scale, shift = text.chunk(2, dim=-1)
        else:
            shift, scale = text.chunk(6, dim=-1)[:2]
        return _modulate(_norm(context), shift, scale)


class SequenceHead(nn.Module):
    """tokens [B, N, D], modulation [B, 2·D] → velocity [B, N, C·p·p] in (c, p, q) order."""

    def __init__(self, projection: nn.Linear) -> None:
        super().__init__()
        self.proj_out = projection

    def forward(self, tokens: Tensor, modulation: Tensor) -> Tensor:
        """The final adaLN (scale before shift) and projection."""
        scale, shift = modulation[:, None].chunk(2, dim=-1)
        velocity: Tensor = self.proj_out(_modulate(_norm(tokens), shift, scale))
        return velocity


class PatchEmbedding(nn.Module):
    """patches [B, N, C·p·p], positions [N, D] → tokens [B, N, D]."""

    def __init__(self, projection: nn.Linear) -> None:
        super().__init__()
        self.patch_embedder = projection

    def forward(self, patches: Tensor, positions: Tensor) -> Tensor:
        """Embed patches where they stand."""
        tokens: Tensor = self.patch_embedder(patches) + positions
        return tokens


class ModulationParts(nn.Module):
    """modulation [B, M] → one [B, m] for every block and for the head."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.widths = widths

    def forward(self, modulation: Tensor) -> tuple[Tensor, ...]:
        """Cut along the last axis."""
        return torch.split(modulation, list(self.widths), dim=-1)


def _norm(states: Tensor) -> Tensor:
    return functional.layer_norm(states, states.shape[-1:], eps=1e-6)


def _modulate(states: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return states * (1 + scale) + shift


def _heads(states: Tensor, norm: nn.Module | None, heads: int) -> Tensor:
    """[B, N, D] → [B, heads, N, D/heads], normalised head by head where the model does so."""
    split = torch.unflatten(states, -1, (heads, -1)).transpose(1, 2)
    normed: Tensor = split if norm is None else norm(split)
    return normed


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention without a mask; [B, heads, N, d] → [B, N, D]."""
    return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def _attention(attn: Any, tokens: Tensor) -> Tensor:
    """Self-attention of the image tokens alone (SD3.5's second attention)."""
    query = _heads(attn.to_q(tokens), attn.norm_q, attn.heads)
    key = _heads(attn.to_k(tokens), attn.norm_k, attn.heads)
    value = _heads(attn.to_v(tokens), None, attn.heads)
    projected: Tensor = attn.to_out[0](_attend(query, key, value))
    return projected


def _joint_attention(attn: Any, tokens: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over image tokens and context together; the context's part comes back unprojected."""
    query = _heads(attn.to_q(tokens), attn.norm_q, attn.heads)
    key = _heads(attn.to_k(tokens), attn.norm_k, attn.heads)
    value = _heads(attn.to_v(tokens), None, attn.heads)
    text_query = _heads(attn.add_q_proj(context), attn.norm_added_q, attn.heads)
    text_key = _heads(attn.add_k_proj(context), attn.norm_added_k, attn.heads)
    text_value = _heads(attn.add_v_proj(context), None, attn.heads)
    mixed = _attend(
        torch.cat([query, text_query], dim=2),
        torch.cat([key, text_key], dim=2),
        torch.cat([value, text_value], dim=2),
    )
    count = tokens.shape[1]
    projected: Tensor = attn.to_out[0](mixed[:, :count])
    return projected, mixed[:, count:]
