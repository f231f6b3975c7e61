"""The settings a picture was made with, kept inside its PNG, so that it can be made again."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import msgspec
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .errors import ImageError
from .files import write_bytes
from .images import FORMATS, sizes_checked_here

_KEY = "unipic2-edge"

Task = Literal["generate", "edit"]
Reference = Literal["mode", "sample"]


class PictureSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One picture's settings; the same ones on the same bundle and backend give the same bytes.

    `seed` is absent when the caller gave the initial latents; `reference` belongs to editing.
    """

    task: Task
    prompt: str
    negative_prompt: str
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    seed: int | None = None
    reference: Reference | None = None
    bundle: str
    source: str  # SHA-256 of the checkpoint
    recipe: str


def save_picture(picture: Image.Image, path: Path, settings: PictureSettings) -> None:
    """Write a PNG that carries its settings as an iTXt chunk, atomically.

    Raises:
        OutputError: the folder does not exist or cannot be written to.
        WorkError: the disk is full.
    """
    write_bytes(path, png_bytes(picture, settings))


def png_bytes(picture: Image.Image, settings: PictureSettings | None) -> bytes:
    """A PNG's bytes, with its settings as an iTXt chunk where there are any."""
    chunks = PngInfo()
    if settings is not None:
        chunks.add_itxt(_KEY, msgspec.json.encode(settings).decode())
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", pnginfo=chunks)
    return buffer.getvalue()


def read_settings(path: Path) -> PictureSettings:
    """The settings inside a PNG.

    Raises:
        ImageError: not a readable picture, or one that carries no settings of ours.
    """
    try:
        with sizes_checked_here(), Image.open(path, formats=FORMATS) as picture:
            # `picture.text` would decode the whole picture to look for chunks behind it; ours stands in front.
            text = picture.info.get(_KEY)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path} is not a picture that can be read", "give a PNG or a bundle folder") from error
    if text is None:
        raise ImageError(f"{path} carries no settings", "only PNGs written by unipic2-edge carry them")
    try:
        return msgspec.json.decode(str(text), type=PictureSettings)
    except msgspec.MsgspecError as error:
        raise ImageError(f"the settings in {path} are damaged: {error}", "nothing can be read from them") from error
