"""Where tokens stand: rope indices, their cosines and sines, and the causal bias of attention (numpy).

Source: `get_rope_index` and `apply_multimodal_rotary_pos_emb` of transformers' Qwen2.5-VL; M-RoPE: arXiv 2409.12191.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .preprocessing import Grid
from .settings import Rope, RopeSettings
from .windows import MASKED

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


def rope_index(ids: Ids, grids: Sequence[Grid], image_pad_id: int, merge_size: int, rope: Rope) -> Ids:
    """[3, S]: time, row and column of each of S tokens.

    With "sequential" all three count the tokens. With "mrope" a picture stands at one time, its tokens at their rows
    and columns, and the words after it go on at the larger of its two sides.

    Raises:
        ValueError: the pads among `ids` are not exactly the tokens of the pictures.
    """
    if rope == "sequential":
        return np.tile(np.arange(len(ids), dtype=np.int64), (3, 1))
    index = np.empty((3, len(ids)), np.int64)
    start = place = 0
    for grid, first in zip(grids, picture_starts(ids, grids, image_pad_id, merge_size), strict=True):
        index[:, start:first] = place + np.arange(first - start)
        place += first - start
        rows, columns = grid[1] // merge_size, grid[2] // merge_size
        start = first + rows * columns
        corners = np.stack(np.meshgrid(np.zeros(1), np.arange(rows), np.arange(columns), indexing="ij"))
        index[:, first:start] = place + corners.reshape(3, -1).astype(np.int64)
        place += max(rows, columns)
    index[:, start:] = place + np.arange(len(ids) - start)
    return index


def picture_starts(ids: Ids, grids: Sequence[Grid], image_pad_id: int, merge_size: int) -> list[int]:
    """Where each picture's tokens begin among the ids.

    Raises:
        ValueError: the pads among `ids` are not exactly the tokens of the pictures.
    """
    pads = np.flatnonzero(ids == image_pad_id)
    starts: list[int] = []
    taken = 0
    for _, rows, columns in grids:
        count = (rows // merge_size) * (columns // merge_size)
        own = pads[taken : taken + count]
        if len(own) != count or own[-1] - own[0] != count - 1:
            raise ValueError(f"a picture of {count} tokens has no run of {count} pads to stand in")
        starts.append(int(own[0]))
        taken += count
    if taken != len(pads):
        raise ValueError(f"{len(pads)} pads for the {taken} tokens of {len(grids)} pictures")
    return starts


def rope_tables(index: Ids, settings: RopeSettings, batch: int = 1) -> tuple[Floats, Floats]:
    """Cosine and sine [batch, S, head_dim] of rope indices [3, S]; each section turns with its own index."""
    steps = np.arange(0, settings.head_dim, 2, dtype=np.float32) / np.float32(settings.head_dim)
    frequencies = np.float32(1) / np.float32(settings.theta) ** steps
    axis = np.repeat(np.arange(3), settings.sections)  # which of time, row, column turns each frequency
    half = index[axis].T.astype(np.float32) * frequencies  # [S, head_dim / 2]
    angles = np.concatenate([half, half], axis=-1)
    shape = (batch, *angles.shape)
    return (
        np.ascontiguousarray(np.broadcast_to(np.cos(angles), shape)),
        np.ascontiguousarray(np.broadcast_to(np.sin(angles), shape)),
    )


def causal_bias(query: int, past: int, batch: int = 1, length: int | None = None) -> Floats:
    """[batch, 1, query, length]: 0 where a token may look, −30,000 where not.

    Args:
        query: how many new tokens there are.
        past: how many tokens came before them.
        batch: rows, all alike.
        length: the keys' length, past + query unless a fixed cache is longer; what lies beyond is masked.
    """
    keys = np.arange(past + query if length is None else length)
    visible = keys[None, :] <= past + np.arange(query)[:, None]
    bias = np.where(visible, np.float32(0), MASKED)
    return np.ascontiguousarray(np.broadcast_to(bias, (batch, 1, *bias.shape)))
