"""The meaning of a text of the shapes world as categories: what the text stage teaches the encoders to say."""

from __future__ import annotations

import re

from ..shapes.captions import NUMBERS, RELATIONS
from ..shapes.edits import DIRECTIONS, KINDS
from ..shapes.scene import BACKGROUNDS, COLORS, SHAPES

_SLOTS = 3
_NONE = ("-",)
#: Category names of every field; the first entry of most means "not said".
FIELDS: dict[str, tuple[str, ...]] = {
    "kind": ("caption", *KINDS),
    "relation": (*_NONE, *RELATIONS, *DIRECTIONS),
    "background": (*_NONE, *BACKGROUNDS),
} | {
    f"{attribute}{slot}": (*_NONE, *values)
    for slot in range(_SLOTS)
    for attribute, values in (("shape", SHAPES), ("color", tuple(COLORS)), ("size", ("small", "large")))
}

_EDIT_VERBS = {
    "make the": "recolor",
    "change the color": "recolor",
    "change the background": "background",
    "add": "add",
    "remove": "remove",
    "move": "move",
    "replace": "replace",
}
_PHRASE = re.compile(
    rf"(?:(?P<number>{'|'.join(NUMBERS)}) )?(?:(?P<size>small|large) )?(?:(?P<color>{'|'.join(COLORS)}) )?"
    rf"(?P<shape>{'|'.join(SHAPES)})"
)


def meaning_of(text: str) -> tuple[int, ...]:
    """One category index per field of `FIELDS`, read from the text by the world's grammar."""
    said = dict.fromkeys(FIELDS, "-")
    said["kind"] = next((kind for verb, kind in _EDIT_VERBS.items() if text.startswith(verb)), "caption")
    found = re.search(rf"(?:background to|on a) ({'|'.join(BACKGROUNDS)})", text)
    if found:
        said["background"] = found[1]
    found = re.search(rf" ({'|'.join(RELATIONS)}) ", text) or re.search(rf"to the ({'|'.join(DIRECTIONS)})$", text)
    if found:
        said["relation"] = found[1]
    slot = 0
    for phrase in _PHRASE.finditer(text):
        for _ in range(NUMBERS.index(phrase["number"]) if phrase["number"] else 1):
            for attribute in ("shape", "color", "size"):
                said[f"{attribute}{slot}"] = phrase[attribute] or "-"
            slot += 1
    if said["kind"] == "recolor":  # the new colour stands in the second slot, like a replacement's
        said["color1"] = text.rsplit(" ", 1)[1]
    return tuple(FIELDS[field].index(value) for field, value in said.items())
