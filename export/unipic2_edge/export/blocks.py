"""The MMDiT block on tokens, its adaLN modulation computed beforehand (SD3, arXiv 2403.03206, figure 2).

A `SequenceBlock` takes over the submodules of diffusers' `JointTransformerBlock`, so that its weights keep
their published names, but for query, key and value: they are one product here (`to_qkv`, `to_added_qkv`, the names
that diffusers' own fusion gives them). The adaLN linears stay behind for the modulation graph.
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
        self.attn = JointAttention(block.attn)
        self.attn2 = None if block.attn2 is None else Attention(block.attn2)
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
        attended, attended_context = self.attn(_modulate(normed, shift, scale), modulated_context)
        tokens = tokens + gate * attended
        if self.attn2 is not None:
            second_shift, second_scale, second_gate = parts[6:]
            tokens = tokens + second_gate * self.attn2(_modulate(normed, second_shift, second_scale))
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


class AttentionProduct(nn.Module):
    """query, key, value [B, heads, N, d] → [B, N, D], without a mask; a module, so that calibration can watch it."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """softmax(q·kᵀ/√d)·v, heads side by side."""
        return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Self-attention of the image tokens alone (SD3.5's second attention): tokens [B, N, D] → [B, N, D]."""

    def __init__(self, attn: Any) -> None:
        super().__init__()
        self.heads = attn.heads
        self.norm_q, self.norm_k = attn.norm_q, attn.norm_k
        self.to_qkv = merged_linears(attn, "to_q", "to_k", "to_v")
        self.to_out = nn.Sequential(attn.to_out[0])  # without the dropout
        self.attend = AttentionProduct()

    def forward(self, tokens: Tensor) -> Tensor:
        """Attention without a mask."""
        query, key, value = _heads(self.to_qkv(tokens), self.norm_q, self.norm_k, self.heads)
        attended: Tensor = self.to_out(self.attend(query, key, value))
        return attended


class JointAttention(Attention):
    """Attention over image tokens [B, N, D] and context [B, L, D] together → both, the context's part unprojected."""

    def __init__(self, attn: Any) -> None:
        super().__init__(attn)
        self.norm_added_q, self.norm_added_k = attn.norm_added_q, attn.norm_added_k
        self.to_added_qkv = merged_linears(attn, "add_q_proj", "add_k_proj", "add_v_proj")
        self.to_add_out = attn.to_add_out

    def forward(self, tokens: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Attention without a mask."""
        image = _heads(self.to_qkv(tokens), self.norm_q, self.norm_k, self.heads)
        text = _heads(self.to_added_qkv(context), self.norm_added_q, self.norm_added_k, self.heads)
        query, key, value = (torch.cat(pair, dim=2) for pair in zip(image, text, strict=True))
        mixed = self.attend(query, key, value)
        count = tokens.shape[1]
        return self.to_out(mixed[:, :count]), mixed[:, count:]


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


def merged_linears(attn: Any, *names: str) -> nn.Linear:
    """Linears of one input as one, side by side."""
    linears = [getattr(attn, name) for name in names]
    merged = nn.Linear(linears[0].in_features, sum(linear.out_features for linear in linears), device="meta")
    merged.weight = nn.Parameter(torch.cat([linear.weight.detach() for linear in linears]))
    if linears[0].bias is None:
        merged.register_parameter("bias", None)
    else:
        merged.bias = nn.Parameter(torch.cat([linear.bias.detach() for linear in linears]))
    return merged


def _heads(merged: Tensor, norm_q: Any, norm_k: Any, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """[B, N, 3·D] → query, key, value [B, heads, N, D/heads], the first two normalised head by head."""
    query, key, value = (torch.unflatten(part, -1, (heads, -1)).transpose(1, 2) for part in merged.chunk(3, dim=-1))
    if norm_q is None:
        return query, key, value
    return rms_norm(query, norm_q), rms_norm(key, norm_k), value


def rms_norm(states: Tensor, norm: Any) -> Tensor:
    """RMSNorm (diffusers', transformers') as a division by the root, the form that ONNX Runtime fuses."""
    epsilon = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
    root = torch.sqrt(states.float().pow(2).mean(-1, keepdim=True) + epsilon)
    normed: Tensor = (states / root).to(norm.weight.dtype) * norm.weight
    return normed
