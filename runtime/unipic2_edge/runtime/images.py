"""Pictures in and out: opened safely, made RGB, resized for editing, written with their settings.

The size in the header is checked before a pixel is decoded: a small PNG can unpack to hundreds of megabytes.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import ImageError, RequestError

Floats = NDArray[np.float32]
Picture = Path | str | Image.Image

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 16_800_000
MAX_BYTES = 20_000_000
_OTHER = "give a PNG, JPEG or WebP picture"


def open_image(source: Path | str | Image.Image) -> Image.Image:
    """A picture as RGB, upright (EXIF), transparency laid on white.

    Args:
        source: a file, or a picture already decoded by the caller.

    Raises:
        ImageError: missing, unreadable, damaged, larger than 16.8 megapixels or 20 MB, or another format.
    """
    if isinstance(source, Image.Image):
        _check_pixels("the picture", source.size)
        return _to_rgb(ImageOps.exif_transpose(source))
    path = Path(source)
    return open_bytes(_read(path), str(path))


def open_bytes(data: bytes, name: str) -> Image.Image:
    """A picture's file in memory as RGB, as `open_image`; `name` is what errors call it.

    Raises:
        ImageError: unreadable, damaged, larger than 16.8 megapixels or 20 MB, or another format.
    """
    _check_bytes(name, len(data))
    try:
        with sizes_checked_here(), Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            _check_pixels(name, picture.size)
            return _to_rgb(ImageOps.exif_transpose(picture))
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} is too large a picture", "make it smaller than 16.8 megapixels") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not a picture that can be read", _OTHER) from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow's decoders raise for damaged files
        raise ImageError(f"{name} is damaged: {error}", _OTHER) from error


def open_images(image: Picture | Sequence[Picture], count: int, num_images: int) -> list[Image.Image]:
    """One picture for all, or one for each of `count` (each instruction's `num_images` times).

    Raises:
        ImageError: as `open_image`.
        RequestError: another number of pictures than of instructions.
    """
    if isinstance(image, (str, Path, Image.Image)):
        return [open_image(image)]
    if len(image) * num_images != count:
        raise RequestError(
            f"there are {len(image)} pictures for {count // num_images} instructions",
            "give one picture, or one for each instruction",
        )
    return [picture for one in image for picture in [open_image(one)] * num_images]


def resize_longer_edge(size: tuple[int, int], target: int, grid: int) -> tuple[int, int]:
    """The (width, height) at which a picture is edited: longer edge = target, the other rounded to the grid.

    Source: `fix_longer_edge` of the released editing script (UniPic 2.0), with grid 32.
    """
    width, height = size
    scale = target / max(width, height)
    shorter = max(grid, round(min(width, height) * scale / grid) * grid)
    return (target, shorter) if width >= height else (shorter, target)


def edit_grid(factor: int, patch_size: int) -> int:
    """The step of an edited picture's sides in pixels: 32 as released, and whole patches of the model."""
    return math.lcm(32, factor * patch_size)


def to_array(picture: Image.Image) -> Floats:
    """RGB picture → [1, 3, H, W] in [-1, 1]."""
    pixels = np.asarray(picture, dtype=np.float32) / np.float32(255)  # [H, W, 3]
    return np.ascontiguousarray((2 * pixels - 1).transpose(2, 0, 1)[None])


def to_pictures(images: Floats) -> list[Image.Image]:
    """[B, 3, H, W] in [-1, 1] → RGB pictures, clipped and rounded as diffusers does."""
    unit = np.clip(images / 2 + np.float32(0.5), 0, 1).transpose(0, 2, 3, 1)
    return [Image.fromarray(pixels) for pixels in (unit * 255).round().astype(np.uint8)]


@contextmanager
def sizes_checked_here() -> Iterator[None]:
    """Without Pillow's warning about large pictures: ours is an error, and says how to mend it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _read(path: Path) -> bytes:
    try:
        _check_bytes(str(path), path.stat().st_size)
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror}", "give the path of a picture") from error


def _check_bytes(name: str, size: int) -> None:
    if size > MAX_BYTES:
        raise ImageError(f"{name} has {size / 1e6:.1f} MB; at most 20 MB are read", "give a smaller file")


def _check_pixels(name: str, size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name} has {width}x{height} pixels, more than 16.8 megapixels", "make it smaller")


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits a channel: keep the upper 8
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layer).convert("RGB")
