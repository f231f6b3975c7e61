"""Drawing a scene: anti-aliased coverage from signed distances, one small window per object."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .scene import BACKGROUNDS, COLORS, Scene

Picture = NDArray[np.uint8]  # [H, W, 3]
Coverage = NDArray[np.float32]  # [h, w] in 0…1

SQUARE_HALF_SIDE = 0.85  # of the radius; every shape lies inside its circle's bounding box
TRIANGLE_BASE = 0.75
CROSS_HALF_ARM = 0.36
RING_HOLE = 0.5


def coverage(shape: str, dx: NDArray[np.float32], dy: NDArray[np.float32], radius: float) -> Coverage:
    """How much of each pixel the shape covers, from the signed distance at the pixel's centre.

    Args:
        shape: one of `SHAPES`.
        dx: pixel centre x minus the shape's centre x, broadcastable with `dy`.
        dy: the same downwards.
        radius: in pixels.
    """
    distance = _signed_distance(shape, dx, dy, np.float32(radius))
    covered: Coverage = np.clip(np.float32(0.5) - distance, 0.0, 1.0).astype(np.float32)
    return covered


def _signed_distance(
    shape: str, dx: NDArray[np.float32], dy: NDArray[np.float32], radius: np.float32
) -> NDArray[np.float32]:
    if shape == "circle":
        return np.asarray(np.hypot(dx, dy) - radius, dtype=np.float32)
    if shape == "ring":
        middle, half = radius * (1 + RING_HOLE) / 2, radius * (1 - RING_HOLE) / 2
        return np.abs(np.hypot(dx, dy) - middle) - half
    if shape == "square":
        return np.maximum(np.abs(dx), np.abs(dy)) - SQUARE_HALF_SIDE * radius
    if shape == "cross":
        ax, ay = np.abs(dx), np.abs(dy)
        upright = np.maximum(ax - CROSS_HALF_ARM * radius, ay - radius)
        level = np.maximum(ay - CROSS_HALF_ARM * radius, ax - radius)
        return np.minimum(upright, level)
    # Triangle: apex (0, −r), base at y = 0.75 r from −r to r; the sides' normal is (1.75, −1)/√(1 + 1.75²).
    slope = 1 + TRIANGLE_BASE
    sides = (slope * np.abs(dx) - (dy + radius)) / np.hypot(slope, 1.0)
    return np.asarray(np.maximum(sides, dy - TRIANGLE_BASE * radius), dtype=np.float32)


def render(scene: Scene) -> Picture:
    """Draw a scene as an RGB picture [H, W, 3]."""
    canvas = scene.canvas
    picture = np.empty((canvas.height, canvas.width, 3), np.float32)
    picture[:] = BACKGROUNDS[scene.background]
    for thing in scene.objects:
        x, y, radius = thing.placed(canvas)
        reach = radius + 1.5
        left, right = max(0, int(x - reach)), min(canvas.width, int(x + reach) + 1)
        top, bottom = max(0, int(y - reach)), min(canvas.height, int(y + reach) + 1)
        dx = np.arange(left, right, dtype=np.float32)[None, :] + np.float32(0.5 - x)
        dy = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - y)
        alpha = coverage(thing.shape, dx, dy, radius)[..., None]
        window = picture[top:bottom, left:right]
        window += alpha * (np.asarray(COLORS[thing.color], np.float32) - window)
    return np.round(picture).astype(np.uint8)
