"""Pictures in and out: what is opened, what is refused before decoding, and the settings inside a PNG."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unipic2_edge.runtime.errors import ImageError, OutputError
from unipic2_edge.runtime.images import edit_grid, open_image, resize_longer_edge, to_array, to_pictures
from unipic2_edge.runtime.settings import PictureSettings, read_settings, save_picture

SETTINGS = PictureSettings(
    task="edit", prompt='rot „ä" 日本', negative_prompt="", width=8, height=8, num_inference_steps=4,
    guidance_scale=3.5, seed=2**63 - 1, reference="sample", bundle="b", source="0" * 64, recipe="fp32",
)  # fmt: skip


def _pixels(height: int = 6, width: int = 8) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(("suffix", "exact"), [("png", True), ("webp", True), ("jpg", False)])
def test_the_three_formats_are_read(tmp_path: Path, suffix: str, exact: bool) -> None:
    picture, path = _pixels(), tmp_path / f"picture.{suffix}"
    picture.save(path, lossless=True) if suffix == "webp" else picture.save(path)
    read = open_image(path)
    assert (read.mode, read.size) == ("RGB", (8, 6))
    assert np.array_equal(np.asarray(read), np.asarray(picture)) is exact


def test_a_turned_photograph_is_upright(tmp_path: Path) -> None:
    picture, exif = _pixels(), Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it
    picture.save(tmp_path / "turned.png", exif=exif)
    read = open_image(tmp_path / "turned.png")
    np.testing.assert_array_equal(np.asarray(read), np.rot90(np.asarray(picture), -1))


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    layer = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    layer.putpixel((1, 0), (0, 0, 0, 0))
    layer.save(tmp_path / "layer.png")
    assert list(np.asarray(open_image(tmp_path / "layer.png"))[0].tolist()) == [[255, 0, 0], [255, 255, 255]]
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([10, 20, 30, 0, 0, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "palette.png", transparency=1)
    assert np.asarray(open_image(tmp_path / "palette.png"))[0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_sixteen_bits_keep_their_brightness(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0x8000, 0xFFFF]], dtype=np.uint16)).save(tmp_path / "deep.png")
    assert np.asarray(open_image(tmp_path / "deep.png"))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("mode", ["L", "1", "LA", "CMYK", "P"])
def test_other_modes_become_rgb(mode: str) -> None:
    assert open_image(_pixels().convert(mode)).mode == "RGB"


def _bomb(path: Path) -> None:
    """A small PNG whose header promises 9000 × 9000 pixels."""
    header = struct.pack(">IIBBBBB", 9000, 9000, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(9000 * 1126), 9)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def _gif(path: Path) -> None:
    _pixels().save(path, format="GIF")


def _cut(path: Path) -> None:
    _pixels(64, 64).save(path, format="PNG")
    path.write_bytes(path.read_bytes()[:-2000])


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (_bomb, "9000x9000 pixels"),
        (_gif, "not a picture that can be read"),
        (_cut, "damaged"),
        (lambda path: path.write_bytes(b""), "not a picture that can be read"),
        (lambda path: path.write_text("hello"), "not a picture that can be read"),
        (lambda path: path.write_bytes(bytes(20_000_001)), "20.0 MB"),
        (lambda path: path.mkdir(), "cannot read"),
        (lambda path: None, "cannot read.*No such file"),
    ],
)
def test_bad_pictures_are_refused(tmp_path: Path, spoil: Callable[[Path], object], problem: str) -> None:
    path = tmp_path / "picture.png"
    spoil(path)
    with pytest.raises(ImageError, match=problem) as caught:
        open_image(path)
    assert caught.value.exit_code == 2
    assert caught.value.mend


@pytest.mark.skipif(sys.platform == "win32", reason="resource is POSIX")
def test_a_bomb_is_never_decoded(tmp_path: Path) -> None:
    _bomb(tmp_path / "bomb.png")
    program = f"""
import resource
from unipic2_edge.runtime.errors import ImageError
from unipic2_edge.runtime.images import open_image
from unipic2_edge.runtime.settings import read_settings
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for read in (open_image, read_settings):
    try: read(__import__("pathlib").Path({str(tmp_path / "bomb.png")!r}))
    except ImageError: pass
    else: raise SystemExit("read it")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 40_000  # kB; decoding takes 81 MB (1 bit) to 240 MB (RGB)


@pytest.mark.parametrize(
    ("size", "target", "expected"),
    [
        ((512, 384), 512, (512, 384)),
        ((384, 512), 512, (384, 512)),
        ((1000, 1000), 64, (64, 64)),
        ((3000, 1000), 512, (512, 160)),  # 170.7 → 160
        ((1000, 10), 512, (512, 32)),  # never less than one grid step
        ((100, 75), 128, (128, 96)),
    ],
)
def test_the_longer_edge_is_the_target(size: tuple[int, int], target: int, expected: tuple[int, int]) -> None:
    assert resize_longer_edge(size, target, 32) == expected


def test_the_edit_grid_holds_whole_patches() -> None:
    assert [edit_grid(8, 2), edit_grid(4, 4), edit_grid(8, 8), edit_grid(4, 6)] == [32, 32, 64, 96]


def test_pictures_survive_the_way_to_the_model_and_back() -> None:
    picture = _pixels()
    array = to_array(picture)
    assert (array.shape, array.dtype, array.min() >= -1, array.max() <= 1) == ((1, 3, 6, 8), np.float32, True, True)
    np.testing.assert_array_equal(np.asarray(to_pictures(array)[0]), np.asarray(picture))
    assert np.asarray(to_pictures(array * 9)[0]).max() == 255


def test_a_png_carries_its_settings_and_no_clock(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        save_picture(_pixels(), tmp_path / name, SETTINGS)
    assert read_settings(tmp_path / "one.png") == SETTINGS
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "one.png")), np.asarray(_pixels()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two.png"]


def test_a_picture_without_our_settings_is_refused(tmp_path: Path) -> None:
    _pixels().save(tmp_path / "plain.png")
    with pytest.raises(ImageError, match="carries no settings"):
        read_settings(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ImageError, match="not a picture"):
        read_settings(tmp_path / "text.png")


def test_a_picture_into_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        save_picture(_pixels(), tmp_path / "nowhere" / "one.png", SETTINGS)
