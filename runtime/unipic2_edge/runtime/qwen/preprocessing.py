"""A picture → the patches that Qwen2.5-VL's vision tower reads (numpy and Pillow).

Bit-equal to transformers' PIL image processor (`Qwen2VLImageProcessorPil`) on RGB pictures; `images.open_image` makes
them RGB. One deliberate difference: transparency is laid on white there, where transformers drops the alpha channel.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import RequestError
from ..images import Picture, open_image
from .settings import VisionSettings

Floats = NDArray[np.float32]
Grid = tuple[int, int, int]

_MAX_ASPECT = 200  # as transformers: a thinner picture would be nearly all interpolation


class SeenPicture(NamedTuple):
    """A picture as the model sees it: patches [N, C·T·P·P], the grid (1, rows, columns) in patches, and its identity.

    The patches of one token are neighbours: rows of tokens, columns of tokens, then the patches inside a token.
    `digest` is equal for pictures that the model cannot tell apart (the same pixels after resizing).
    """

    patches: Floats
    grid: Grid
    digest: bytes


def see(picture: Picture, settings: VisionSettings, pixels: int | None = None) -> SeenPicture:
    """Open, resize, normalise and cut a picture.

    Args:
        picture: a file, or a decoded picture.
        settings: patch and merge size, limits, mean and std.
        pixels: the area to resize to, in place of the settings' limits (see `edit_pixels`).

    Raises:
        ImageError: the picture cannot be read, or is too large.
        RequestError: one side is more than 200 times the other.
    """
    opened = open_image(picture)
    low, high = (settings.min_pixels, settings.max_pixels) if pixels is None else (pixels, pixels)
    width, height = resized(opened.size, settings.token_side, low, high)
    array = np.asarray(opened.resize((width, height), Image.Resampling.BICUBIC))  # [H, W, 3] uint8
    grid = (1, height // settings.patch_size, width // settings.patch_size)
    digest = hashlib.sha256(repr(array.shape).encode() + array.tobytes()).digest()
    return SeenPicture(_cut(_normalise(array, settings), settings), grid, digest)


def resized(size: tuple[int, int], side: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """The (width, height) at which a picture is seen: multiples of `side`, an area within the limits, its shape kept.

    Source: `smart_resize` of transformers' Qwen2-VL (image_processing_pil_qwen2_vl.py).

    Raises:
        RequestError: one side is more than 200 times the other.
    """
    width, height = size
    if max(size) > _MAX_ASPECT * min(size):
        raise RequestError(
            f"the picture is {width}x{height}: one side is more than {_MAX_ASPECT} times the other",
            "crop it to a less extreme shape",
        )
    rows, columns = round(height / side), round(width / side)
    if rows * columns * side * side > max_pixels:
        scale = math.sqrt(width * height / max_pixels)
        rows, columns = (max(1, math.floor(length / scale / side)) for length in (height, width))
    elif rows * columns * side * side < min_pixels:
        scale = math.sqrt(min_pixels / (width * height))
        rows, columns = (math.ceil(length * scale / side) for length in (height, width))
    return columns * side, rows * side


def edit_pixels(width: int, height: int, settings: VisionSettings) -> int:
    """The area at which a picture is seen when the result has `width` × `height` pixels: one token each 32×32.

    Source: the released editing script (UniPic 2.0), min_pixels = max_pixels = (H·28/32)·(W·28/32).
    """
    side, step = settings.token_side, settings.edit_pixels_per_token
    return int((height * side / step) * (width * side / step))


def count_tokens(grid: Grid, settings: VisionSettings) -> int:
    """How many tokens of the language model a picture of this grid takes."""
    return math.prod(grid) // settings.merge_size**2


@lru_cache(maxsize=4)
def _levels(settings: VisionSettings) -> Floats:
    """[256, 3]: what each level of each channel becomes, in the order of roundings of transformers."""
    unit = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)[:, None]
    mean, std = (np.array(values, np.float32) for values in (settings.mean, settings.std))
    return ((unit - mean) / std).astype(np.float32)


def _normalise(pixels: NDArray[np.uint8], settings: VisionSettings) -> Floats:
    levels = _levels(settings)
    return np.stack([levels[pixels[..., channel], channel] for channel in range(3)])  # [3, H, W]


def _cut(image: Floats, settings: VisionSettings) -> Floats:
    channels, height, width = image.shape
    patch, merge, times = settings.patch_size, settings.merge_size, settings.temporal_patch_size
    rows, columns = height // patch, width // patch
    blocks = image.reshape(channels, rows // merge, merge, patch, columns // merge, merge, patch)
    blocks = blocks.transpose(1, 4, 2, 5, 0, 3, 6)  # [rows, columns, row in token, column in token, C, P, P]
    still = np.repeat(blocks[:, :, :, :, :, None], times, axis=5)  # a still picture is shown `times` times
    return still.reshape(rows * columns, channels * times * patch * patch)
