"""The window plan of the vision tower: which patch stands in which window, and where it turns (numpy).

Windows of 112×112 pixels are rows of one array, empty slots masked: no loop, argsort or offsets inside the graph.
Source: `get_window_index` and `rot_pos_emb` of transformers' Qwen2_5_VisionTransformerPretrainedModel.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .preprocessing import Grid, SeenPicture
from .settings import VisionSettings

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

#: Added to the score of what must not be seen: exp() of it is 0, and it is finite in float16 too.
MASKED = np.float32(-3e4)


class WindowPlan(NamedTuple):
    """W windows of S slots: patch_index [W, S] (−1 = empty), rope [W, S, head_dim], key_bias [W, S], restore_index [N].

    `restore_index` brings the N tokens, which come out in the windows' order, back into rows and columns.
    """

    patch_index: Ids
    rope_cos: Floats
    rope_sin: Floats
    key_bias: Floats
    restore_index: Ids


@lru_cache(maxsize=16)
def plan_windows(grid: Grid, settings: VisionSettings) -> WindowPlan:
    """The plan of a picture with this grid (1, rows, columns) of patches; kept for the most recent grids."""
    tokens = _token_index(grid, settings)  # [W, tokens a window]
    unit = settings.merge_size**2
    patches = np.where(tokens[..., None] >= 0, tokens[..., None] * unit + np.arange(unit), -1)
    patch_index = patches.reshape(len(tokens), -1)  # [W, S]
    angles = _angles(grid, settings)[np.maximum(patch_index, 0)]  # [W, S, head_dim]
    flat = tokens.reshape(-1)
    slots = np.flatnonzero(flat >= 0)
    restore_index = np.empty(len(slots), np.int64)
    restore_index[flat[slots]] = slots
    bias = np.where(patch_index >= 0, np.float32(0), MASKED)
    plan = WindowPlan(patch_index, np.cos(angles), np.sin(angles), bias, restore_index)
    for array in plan:
        array.setflags(write=False)  # the plan is shared by all who ask for it
    return plan


def vision_feed(picture: SeenPicture, settings: VisionSettings) -> dict[str, NDArray[Any]]:
    """The inputs of the graph `vision` for one picture: patches [W, S, P] and the plan's arrays."""
    plan = plan_windows(picture.grid, settings)
    patches = picture.patches[np.maximum(plan.patch_index, 0)]
    patches[plan.patch_index < 0] = 0
    return {
        "patches": patches,
        "rope_cos": plan.rope_cos,
        "rope_sin": plan.rope_sin,
        "key_bias": plan.key_bias,
        "restore_index": plan.restore_index,
    }


def _token_index(grid: Grid, settings: VisionSettings) -> Ids:
    """[W, tokens a window]: the token in each slot, −1 where the last windows hang over the picture's edge."""
    rows, columns = grid[1] // settings.merge_size, grid[2] // settings.merge_size
    side = settings.window_size // settings.token_side
    down, across = -(-rows // side), -(-columns // side)
    index = np.full((down * side, across * side), -1, np.int64)
    index[:rows, :columns] = np.arange(rows * columns).reshape(rows, columns)
    return index.reshape(down, side, across, side).transpose(0, 2, 1, 3).reshape(down * across, side * side)


def _angles(grid: Grid, settings: VisionSettings) -> Floats:
    """[N patches, head_dim]: row · frequencies, column · frequencies, and both again."""
    _, rows, columns = grid
    merge, half = settings.merge_size, settings.head_dim // 2
    steps = np.arange(0, half, 2, dtype=np.float32) / np.float32(half)
    frequencies = np.float32(1) / np.float32(settings.rope_theta) ** steps
    places = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1)
    blocks = places.reshape(rows // merge, merge, columns // merge, merge, 2).transpose(0, 2, 1, 3, 4)
    turned = blocks.reshape(-1, 2, 1).astype(np.float32) * frequencies  # [N, 2, head_dim / 4]
    angles = turned.reshape(len(turned), half)
    return np.concatenate([angles, angles], axis=-1)
