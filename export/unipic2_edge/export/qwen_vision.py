"""Qwen2.5-VL's eyes as a graph without loops: windows are a batch, and the host sorts patches into them.

A window that is not full has empty slots, which a bias on the keys hides; layers of full attention see all windows as
one sequence. One gather at the end brings the tokens back into the picture's order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import rms_norm
from .qwen_language import rotated


class VisionEmbedding(nn.Module):
    """patches [W, S, P] → states [W, S, C]: the convolution over one patch, which is a product."""

    def __init__(self, projection: nn.Conv3d) -> None:
        super().__init__()
        kernel = projection.weight
        self.proj = nn.Linear(kernel[0].numel(), kernel.shape[0], bias=False, device="meta")
        self.proj.weight = nn.Parameter(kernel.detach().flatten(1))

    def forward(self, patches: Tensor) -> Tensor:
        """One product."""
        states: Tensor = self.proj(patches)
        return states


class VisionBlock(nn.Module):
    """states [W, S, C], rope_cos and rope_sin [W, S, d] float32, key_bias [W, S] float32 → states.

    Args:
        block: transformers' layer.
        full: whether it attends over all windows, or within each.
    """

    def __init__(self, block: Any, full: bool) -> None:
        super().__init__()
        self.full = full
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.heads = block.attn.num_heads
        self.qkv, self.proj = block.attn.qkv, block.attn.proj
        self.mlp = block.mlp

    def extra_repr(self) -> str:
        """Blocks of either kind are traced once: they must read differently."""
        return f"full={self.full}"

    def forward(self, states: Tensor, rope_cos: Tensor, rope_sin: Tensor, key_bias: Tensor) -> Tensor:
        """Attention, then the feed-forward layer."""
        attended = self._attend(rms_norm(states, self.norm1), rope_cos, rope_sin, key_bias)
        states = states + attended
        made: Tensor = states + self.mlp(rms_norm(states, self.norm2))
        return made

    def _attend(self, states: Tensor, cos: Tensor, sin: Tensor, bias: Tensor) -> Tensor:
        shape = states.shape
        if self.full:  # all windows as one sequence
            states, cos, sin, bias = (part.flatten(0, 1)[None] for part in (states, cos, sin, bias))
        parts = self.qkv(states).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        query, key = (rotated(part, cos[:, None], sin[:, None]) for part in (query, key))
        scores = (query @ key.transpose(2, 3)).float() * query.shape[-1] ** -0.5 + bias[:, None, None]
        mixed = torch.softmax(scores, dim=-1).to(value.dtype) @ value
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected.reshape(shape)


class VisionMerger(nn.Module):
    """states [W, S, C], restore_index [N] → image_embeds [N, H]: four neighbours become one token, in their order."""

    def __init__(self, merger: Any) -> None:
        super().__init__()
        self.ln_q = merger.ln_q
        self.first, self.second = merger.mlp[0], merger.mlp[2]
        self.width = merger.hidden_size

    def forward(self, states: Tensor, restore_index: Tensor) -> Tensor:
        """The windows' tokens in the picture's order."""
        normed = rms_norm(states, self.ln_q).reshape(-1, self.width)
        tokens = self.second(functional.gelu(self.first(normed)))
        return torch.index_select(tokens, 0, restore_index)
