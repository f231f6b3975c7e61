"""What Qwen2.5-VL sees of a picture: patches, their grid, and the positions of its tokens in the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from ..shapes.render import Picture

Grid = tuple[int, int]  # patches down, patches across


def editing_pixels(height: int, width: int) -> int:
    """The pixel count to which UniPic2's editing resizes a picture for the language model: (H·28/32)·(W·28/32).

    Used as smallest and largest at once, it makes H/32 × W/32 picture tokens.
    """
    return (height * 28 // 32) * (width * 28 // 32)


def pixel_range(smallest: int, largest: int) -> dict[str, int]:
    """The image processor's `size`: its smallest and largest picture, in pixels.

    Its `min_pixels` and `max_pixels` are not used, since transformers writes them into the class's own default.
    """
    return {"shortest_edge": smallest, "longest_edge": largest}


class Sight:
    """The image processor of a checkpoint at its two sizes, with transformers' own Pillow code.

    Args:
        processor: decides patch and merge sizes, normalisation and the smallest and largest picture.
    """

    def __init__(self, processor: Qwen2VLImageProcessorPil) -> None:
        self.processor = processor
        self.merge = int(processor.merge_size)

    def patches(self, pictures: Sequence[Picture], editing: bool = False) -> tuple[Tensor, Grid]:
        """Pictures of one size → patches [B·h·w, 3·2·14·14] and the grid (h, w).

        Args:
            pictures: [H, W, 3] uint8 each.
            editing: resize to the editing size, else into the processor's range of pixels.
        """
        height, width, _ = pictures[0].shape
        options: dict[str, Any] = {"size": pixel_range(*[editing_pixels(height, width)] * 2)} if editing else {}
        made = self.processor(images=list(pictures), return_tensors="pt", **options)
        _, down, across = (int(count) for count in made["image_grid_thw"][0])
        patches: Tensor = made["pixel_values"]
        return patches, (down, across)

    def grid(self, width: int, height: int, editing: bool = False) -> Grid:
        """The grid of patches of a picture of this size."""
        return self.patches([np.zeros((height, width, 3), np.uint8)], editing)[1]

    def tokens(self, grid: Grid) -> int:
        """How many tokens of text a picture takes."""
        return grid[0] * grid[1] // self.merge**2


def positions(length: int, start: int = 0, grid: Grid | None = None, merge: int = 2) -> Tensor:
    """Rope positions [3, length] (time, row, column) of a text with one picture in it.

    Args:
        length: of the text in tokens, the picture's included.
        start: the index of the picture's first token.
        grid: the picture's patches; none gives plain counting, which is also what UniPic2's released editing has
            (its `sequential` positions) though there is a picture.
        merge: patches a token along each side.

    The picture's tokens share one time, and count rows and columns from there; the text goes on after the larger
    of both (M-RoPE, Qwen2-VL, arXiv 2409.12191, §2.1).
    """
    plain = torch.arange(length).expand(3, length)
    if grid is None:
        return plain
    rows, columns = grid[0] // merge, grid[1] // merge
    after = start + rows * columns
    made = plain.clone()
    made[0, start:after] = start
    made[1, start:after] = start + torch.arange(rows).repeat_interleave(columns)
    made[2, start:after] = start + torch.arange(columns).repeat(rows)
    made[:, after:] += max(rows, columns) - rows * columns
    return made
