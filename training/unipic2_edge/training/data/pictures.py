"""Pictures from strangers: the header is judged before anything is decoded, and what comes out is upright RGB."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from ..shapes.render import Picture
from .records import BadRecordError

_FORMATS = ("PNG", "JPEG", "WEBP")
_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Size = tuple[int, int]


class Encoded:
    """A picture's bytes with what its header says: `size` (width, height) as it is seen, after EXIF's rotation.

    Args:
        content: PNG, JPEG or WEBP; of an animation the first picture counts.
        most: pixels, the most that are decoded.

    Raises:
        BadRecordError: it is none of these, or larger.
    """

    def __init__(self, content: bytes, most: int) -> None:
        self.content = content
        self._image = _caught(lambda: Image.open(io.BytesIO(content), formats=_FORMATS))
        width, height = self._image.size
        if width * height > most:
            raise BadRecordError(f"a picture is {width}×{height}, more than {most} pixels")
        # The base class's: PNG's own decodes the whole picture to look for EXIF behind it.
        self._turn = _caught(lambda: Image.Image.getexif(self._image).get(_ORIENTATION, 1))
        self.size: Size = (height, width) if self._turn in _SIDEWAYS else (width, height)

    def cut(self, size: Size, at: tuple[float, float]) -> Picture:
        """The picture [height, width, 3] at `size`: the largest part of that shape, resampled by Lanczos.

        Args:
            size: width and height.
            at: where the part lies along what is left over, from left and top, 0…1.

        Raises:
            BadRecordError: it does not decode.
        """
        lanczos = Image.Resampling.LANCZOS
        picture: Picture = _caught(lambda: np.asarray(self._upright().resize(size, lanczos, self._box(size, at))))
        return picture

    def _upright(self) -> Image.Image:
        image = _rgb(self._image)
        turn = _TURNS.get(self._turn)
        return image if turn is None else image.transpose(turn)

    def _box(self, size: Size, at: tuple[float, float]) -> tuple[float, float, float, float]:
        scale = max(size[0] / self.size[0], size[1] / self.size[1])
        width, height = min(self.size[0], size[0] / scale), min(self.size[1], size[1] / scale)
        left, top = (self.size[0] - width) * at[0], (self.size[1] - height) * at[1]
        return left, top, left + width, top + height


def _rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode: what is transparent becomes white, 16 bits a channel become 8."""
    image.load()
    if image.mode.startswith("I"):
        levels = np.clip(np.asarray(image).astype(np.int64) // 256, 0, 255)
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _caught(work: Callable[[], Any]) -> Any:
    """What `work` returns; Pillow's many ways of failing on bad bytes are one."""
    try:
        return work()
    except BadRecordError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadRecordError(f"a picture does not decode: {reason[:120]}") from error
