"""Qwen2.5-VL's vision tower on a batch of equal pictures at once, for training.

transformers runs attention picture by picture and window by window; where a picture is one window the same modules can
run on all pictures together, which at small sizes halves the tower's time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import get_vision_position_ids

from .sight import Grid


def is_one_window(visual: Any, grid: Grid) -> bool:
    """Whether a whole picture lies in one attention window."""
    side = visual.window_size // visual.patch_size
    return bool(max(grid) <= side)


def picture_tokens(visual: Any, patches: Tensor, grid: Grid) -> Tensor:
    """Patches [B·h·w, P] of pictures of one window each → tokens [B·h·w/4, H], as the tower itself gives them.

    Args:
        visual: the model's vision tower.
        patches: of all pictures, one after another.
        grid: (h, w) of each.
    """
    count = grid[0] * grid[1]
    places = get_vision_position_ids(torch.tensor([[1, *grid]], device=patches.device), visual.spatial_merge_size)
    angles = visual.rotary_pos_emb(places).reshape(count, -1)
    angles = torch.cat((angles, angles), dim=-1)
    rope = (angles.cos(), angles.sin())
    weight = visual.patch_embed.proj.weight
    hidden = functional.linear(patches.to(weight.dtype), weight.flatten(1))
    hidden = hidden.view(-1, count, hidden.shape[-1])  # [B, N, D]
    for block in visual.blocks:
        hidden = hidden + _attention(block.attn, block.norm1(hidden), rope)
        hidden = hidden + block.mlp(block.norm2(hidden))
    tokens: Tensor = visual.merger(hidden.flatten(0, 1))
    return tokens


def _attention(layer: Any, hidden: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """[B, N, D] → [B, N, D] over all N places."""
    rows, count, _ = hidden.shape
    query, key, value = layer.qkv(hidden).view(rows, count, 3, layer.num_heads, -1).unbind(2)  # each [B, N, heads, d]
    query, key = apply_rotary_pos_emb_vision(query, key, *rope)
    scores = query.transpose(1, 2) @ key.permute(0, 2, 3, 1) * layer.scaling
    mixed = scores.softmax(-1) @ value.transpose(1, 2)
    projected: Tensor = layer.proj(mixed.transpose(1, 2).flatten(2))
    return projected
