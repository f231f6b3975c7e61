"""Pictures from strangers come out upright and in RGB, or are refused; buckets and crops are what the README says."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from unipic2_edge.training.data.buckets import Buckets, buckets
from unipic2_edge.training.data.pictures import Encoded
from unipic2_edge.training.data.records import BadRecordError

MOST = 10**6


def _encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def _halves(mode: str = "RGB") -> Image.Image:
    """80×40, the left half red, the right blue."""
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, :40, 0], pixels[:, 40:, 2] = 255, 255
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_a_picture_of_the_right_size_is_not_touched(form: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    options = {"lossless": True} if form == "WEBP" else {}
    encoded = Encoded(_encoded(Image.fromarray(pixels), form, **options), MOST)
    assert encoded.size == (64, 32)
    assert np.array_equal(encoded.cut((64, 32), (0.5, 0.5)), pixels)


def test_the_crop_is_the_largest_part_of_the_shape_at_the_place_asked_for() -> None:
    content = _encoded(_halves())
    for at, color in ((0.0, (255, 0, 0)), (1.0, (0, 0, 255))):
        cut = Encoded(content, MOST).cut((32, 32), (at, 0.5))
        assert cut.shape == (32, 32, 3)
        assert (cut[:, 3:-3] == np.array(color)).all()  # Lanczos looks over the edge
    middle = Encoded(content, MOST).cut((32, 32), (0.5, 0.5))
    assert (middle[:, :14] == (255, 0, 0)).all()
    assert (middle[:, 18:] == (0, 0, 255)).all()


def test_exif_rotation_is_applied_to_size_and_pixels() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera stood on its side: shown a quarter turn clockwise
    encoded = Encoded(_encoded(_halves(), "JPEG", exif=exif, quality=95), MOST)
    assert encoded.size == (40, 80)
    upright = encoded.cut((32, 64), (0.5, 0.5)).astype(int)
    assert (upright[:28, :, 0] > 200).all()
    assert (upright[36:, :, 2] > 200).all()


def test_transparency_becomes_white() -> None:
    clear = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    palette = Image.new("P", (32, 32), 0)
    for content in (_encoded(clear), _encoded(clear.convert("LA")), _encoded(palette, transparency=0)):
        assert (Encoded(content, MOST).cut((32, 32), (0.5, 0.5)) == 255).all()


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK"])
def test_other_modes_become_rgb(mode: str) -> None:
    image = Image.new("RGB", (32, 32), "white").convert(mode)
    cut = Encoded(_encoded(image, "JPEG" if mode == "CMYK" else "PNG"), MOST).cut((32, 32), (0.5, 0.5))
    assert cut.shape == (32, 32, 3)
    assert (cut > 250).all()


def test_16_bits_a_channel_become_8() -> None:
    levels = np.full((32, 32), 0x8000, np.uint16)
    cut = Encoded(_encoded(Image.fromarray(levels)), MOST).cut((32, 32), (0.5, 0.5))
    assert (cut == 0x80).all()


def _bomb() -> bytes:
    """A PNG of 20000×20000 pixels whose data is nearly nothing."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no picture", "does not decode: cannot identify"),
        (_encoded(_halves(), "GIF"), "does not decode: cannot identify"),
        (_bomb(), "20000×20000|decompression bomb"),
        (_encoded(Image.new("RGB", (1001, 1000))), "1001×1000, more than 1000000"),
    ],
)
def test_headers_are_judged_before_anything_is_decoded(content: bytes, reason: str) -> None:
    with pytest.raises(BadRecordError, match=reason):
        Encoded(content, MOST)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_truncated_picture_does_not_decode(form: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = _encoded(noise, form)
    with pytest.raises(BadRecordError, match="does not decode"):
        Encoded(content[: len(content) // 2], MOST).cut((32, 32), (0.5, 0.5))


@pytest.mark.parametrize(("side", "longest"), [(512, 2.0), (1024, 2.0), (1024, 4.0), (256, 1.0), (96, 3.0)])
def test_buckets_use_the_budget_in_multiples_of_32(side: int, longest: float) -> None:
    sizes = Buckets.within(side, longest).sizes
    assert (side, side) in sizes
    for width, height in sizes:
        assert width % 32 == height % 32 == 0
        assert width * height <= side * side < (width + 32) * (height + 32)
        assert max(width, height) / min(width, height) <= longest
        assert (height, width) in sizes
        others = [other for other in sizes if other != (width, height)]
        assert not any(other[0] >= width and other[1] >= height for other in others)


def test_a_picture_goes_to_the_nearest_shape() -> None:
    found = Buckets.within(512, 2.0)
    assert found.of((4000, 4000)) == (512, 512)
    assert found.of((1920, 1080)) == (672, 384)
    assert found.of((1080, 1920)) == (384, 672)
    assert found.of((10_000, 10)) == (704, 352)
    assert buckets([(64, 64), (96, 64)], 0, 2.0).of((640, 400)) == (96, 64)
