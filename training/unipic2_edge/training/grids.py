"""Sample grids: many small pictures in one PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from .shapes.render import Picture


def save_grid(path: Path, pictures: list[Picture], columns: int = 8, gap: int = 2) -> None:
    """Write the pictures (all of one size) row by row, with a gap in pixels between them."""
    height, width, _ = pictures[0].shape
    rows = -(-len(pictures) // columns)
    grid = np.zeros((rows * (height + gap), columns * (width + gap), 3), np.uint8)
    for index, picture in enumerate(pictures):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        grid[top : top + height, left : left + width] = picture
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid).save(path)
