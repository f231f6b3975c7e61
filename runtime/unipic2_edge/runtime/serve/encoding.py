"""Pictures as bytes in the format asked for, and the data URIs they come in."""

from __future__ import annotations

import base64
import binascii
import io

from PIL import Image

from ..errors import ImageError
from ..images import open_bytes
from ..settings import PictureSettings, png_bytes
from .messages import Format

_MEDIA = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


def encode(picture: Image.Image, output_format: Format, compression: int, settings: PictureSettings | None) -> bytes:
    """A picture's file; a PNG carries its settings."""
    if output_format == "png":
        return png_bytes(picture, settings)
    buffer = io.BytesIO()
    picture.save(buffer, format=output_format.upper(), quality=compression)
    return buffer.getvalue()


def media_type(output_format: Format) -> str:
    """As in HTTP's Content-Type."""
    return _MEDIA[output_format]


def data_uri(picture: bytes, output_format: Format) -> str:
    """A picture within a URI."""
    return f"data:{media_type(output_format)};base64,{base64.b64encode(picture).decode()}"


def from_data_uri(text: str) -> Image.Image:
    """The picture in a data URI, opened as safely as a file. Nothing is ever fetched.

    Raises:
        ImageError: another kind of URI, or no picture in it.
    """
    head, comma, body = text.partition(",")
    if not (comma and head.startswith("data:image/") and head.endswith(";base64")):
        raise ImageError("the picture is no data URI", "send data:image/png;base64,…; addresses are not fetched")
    try:
        data = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"the picture's base64 is damaged: {error}", "encode it again") from error
    return open_bytes(data, "the picture")
