"""The text stage's targets are what the captions and instructions say."""

from __future__ import annotations

import pytest

from unipic2_edge.training.text.meaning import FIELDS, meaning_of


def _said(text: str) -> dict[str, str]:
    values = zip(FIELDS.items(), meaning_of(text), strict=True)
    return {field: options[index] for (field, options), index in values if options[index] not in ("-", "caption")}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a small red circle", {"shape0": "circle", "color0": "red", "size0": "small"}),
        ("two crosses on a gray background", {"shape0": "cross", "shape1": "cross", "background": "gray"}),
        ("a ring above a blue square", {"shape0": "ring", "relation": "above", "shape1": "square", "color1": "blue"}),
        ("make the circle blue", {"kind": "recolor", "shape0": "circle", "color1": "blue"}),
        ("move the red ring to the top", {"kind": "move", "shape0": "ring", "color0": "red", "relation": "top"}),
        ("change the background to black", {"kind": "background", "background": "black"}),
        (
            "replace the circle with a green square",
            {"kind": "replace", "shape0": "circle", "shape1": "square", "color1": "green"},
        ),
    ],
)
def test_meaning(text: str, said: dict[str, str]) -> None:
    assert _said(text) == said
