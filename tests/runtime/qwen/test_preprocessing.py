"""Patches are bit-equal to transformers' PIL processor, at every size and mode; extreme shapes are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from unipic2_edge.runtime.errors import ImageError, RequestError
from unipic2_edge.runtime.images import open_image
from unipic2_edge.runtime.qwen.preprocessing import count_tokens, edit_pixels, resized, see
from unipic2_edge.runtime.qwen.settings import VisionSettings

SETTINGS = VisionSettings()
SIZES = [(1, 1), (28, 28), (56, 56), (57, 91), (97, 33), (1, 200), (640, 480), (333, 777), (1200, 40), (50, 64)]
SIZES += [(128, 96), (1500, 1100), (29, 4000), (41, 43)]


def _noise(size: tuple[int, int], mode: str = "RGB", seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    return picture.convert(mode) if "A" in mode else picture.convert("RGB").convert(mode)


def _theirs(picture: Image.Image, pixels: int | None = None) -> tuple[np.ndarray, tuple[int, ...]]:
    low, high = (pixels, pixels) if pixels else (SETTINGS.min_pixels, SETTINGS.max_pixels)
    size = {
        "shortest_edge": low,
        "longest_edge": high,
    }  # `min_pixels` would change the default of every later processor
    given = Qwen2VLImageProcessorPil(size=size)(picture, return_tensors="np")
    return given["pixel_values"], tuple(given["image_grid_thw"][0].tolist())


@pytest.mark.parametrize("size", SIZES)
def test_patches_equal_transformers_bit_for_bit(size: tuple[int, int]) -> None:
    picture = _noise(size)
    patches, grid = _theirs(picture)
    seen = see(picture, SETTINGS)
    assert seen.grid == grid
    assert seen.patches.dtype == np.float32
    np.testing.assert_array_equal(seen.patches, patches)
    assert count_tokens(seen.grid, SETTINGS) * 4 == len(patches)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "YCbCr", "HSV"])
def test_modes_without_alpha_equal_transformers(mode: str) -> None:
    picture = _noise((75, 60), mode)
    np.testing.assert_array_equal(see(picture, SETTINGS).patches, _theirs(picture)[0])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white_first(mode: str) -> None:
    picture = _noise((75, 60), mode)
    ours = see(picture, SETTINGS).patches
    np.testing.assert_array_equal(ours, _theirs(open_image(picture))[0])
    assert not np.array_equal(ours, _theirs(picture)[0])  # transformers drops the alpha channel


def test_a_turned_picture_is_seen_upright(tmp_path: Path) -> None:
    picture = _noise((60, 90))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    picture.save(tmp_path / "turned.png", exif=exif)
    seen = see(tmp_path / "turned.png", SETTINGS)
    assert seen.grid[1] < seen.grid[2]
    np.testing.assert_array_equal(seen.patches, see(picture.transpose(Image.Transpose.ROTATE_270), SETTINGS).patches)


@pytest.mark.parametrize(("width", "height"), [(32, 32), (64, 96), (512, 384), (1024, 992), (2048, 64)])
def test_an_edit_sees_one_token_for_each_32_pixels(width: int, height: int) -> None:
    pixels = edit_pixels(width, height, SETTINGS)
    assert pixels == int((height * 28 / 32) * (width * 28 / 32))
    picture = _noise((width, height))
    seen = see(picture, SETTINGS, pixels)
    assert seen.grid == (1, height // 32 * 2, width // 32 * 2)
    np.testing.assert_array_equal(seen.patches, _theirs(picture, pixels)[0])


def test_sizes_equal_transformers_for_many_shapes_and_limits() -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    rng = np.random.default_rng(1)
    for _ in range(3000):
        width, height = (int(side) for side in rng.integers(1, 3000, 2))
        low = int(rng.integers(1, 200_000))
        high = low + int(rng.integers(0, 2_000_000))
        if max(width, height) > 200 * min(width, height):
            continue
        theirs = smart_resize(height, width, 28, low, high)
        assert resized((width, height), 28, low, high) == theirs[::-1]


@pytest.mark.parametrize("size", [(4000, 1), (1, 4000), (201, 1)])
def test_an_extreme_shape_is_refused_in_one_line(size: tuple[int, int]) -> None:
    with pytest.raises(RequestError, match=f"{size[0]}x{size[1]}: one side is more than 200 times"):
        see(_noise(size), SETTINGS)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    _noise((64, 64)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    with pytest.raises(ImageError, match="damaged"):
        see(tmp_path / "cut.png", SETTINGS)


def test_the_digest_tells_pictures_apart() -> None:
    picture = _noise((56, 84))
    other = picture.copy()
    other.putpixel((0, 0), tuple(255 - level for level in picture.getpixel((0, 0))))
    assert see(picture, SETTINGS).digest == see(picture.copy(), SETTINGS).digest
    assert see(picture, SETTINGS).digest != see(other, SETTINGS).digest
    square = Image.new("RGB", (56, 112)), Image.new("RGB", (112, 56))
    assert see(square[0], SETTINGS).digest != see(square[1], SETTINGS).digest
