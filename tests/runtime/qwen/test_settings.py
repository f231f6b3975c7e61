"""The settings come back from JSON as they were written; what cannot be is refused."""

from __future__ import annotations

import msgspec
import pytest

from unipic2_edge.runtime.errors import BundleError
from unipic2_edge.runtime.qwen.settings import QwenSettings, VisionSettings, read_settings

from .conftest import SETTINGS


def test_settings_come_back() -> None:
    assert read_settings(msgspec.json.encode(SETTINGS)) == SETTINGS
    assert hash(SETTINGS) == hash(read_settings(msgspec.json.encode(SETTINGS)))


def test_the_defaults_are_the_published_models() -> None:
    vision = VisionSettings()
    assert (vision.token_side, vision.window_size // vision.token_side) == (28, 4)


@pytest.mark.parametrize(
    ("where", "what", "value"),
    [
        ("vision", "patch_size", 0),
        ("vision", "window_size", 27),
        ("vision", "head_dim", 6),
        ("vision", "min_pixels", 0),
        ("vision", "max_pixels", 10),
        ("vision", "std", [1, 0, 1]),
        ("vision", "mean", [1, 0]),
        ("rope", "sections", [1, 2, 3]),
        ("rope", "answer", "other"),
        ("chat", "picture", "nothing"),
        ("chat", "generation", "no place"),
        ("chat", "stop_ids", []),
        ("chat", "context", 0),
        ("chat", "unknown", 1),
    ],
)
def test_what_cannot_be_is_refused(where: str, what: str, value: object) -> None:
    data = msgspec.json.decode(msgspec.json.encode(SETTINGS))
    data[where][what] = value
    with pytest.raises(BundleError, match="do not parse"):
        read_settings(msgspec.json.encode(data))


def test_what_is_missing_is_refused() -> None:
    for field in QwenSettings.__struct_fields__:
        data = msgspec.json.decode(msgspec.json.encode(SETTINGS))
        del data[field]
        with pytest.raises(BundleError, match=f"missing required field `{field}`"):
            read_settings(msgspec.json.encode(data))
