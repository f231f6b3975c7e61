"""The three kinds of record that training reads, their fields, and what these are called in shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["captions", "edits", "questions"]

_PICTURES = ("jpg", "jpeg", "png", "webp")


@dataclass(frozen=True)
class Fields:
    """A kind's fields: pictures, the one that is to be made last, and texts."""

    pictures: tuple[str, ...]
    texts: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        """Pictures and texts."""
        return self.pictures + self.texts


FIELDS: dict[Kind, Fields] = {
    "captions": Fields(("image",), ("caption",)),
    "edits": Fields(("source", "target"), ("instruction",)),
    "questions": Fields(("image",), ("question", "answer")),
}

#: Where a tar holds a field, the first that is there: members by their ending, or a key of a JSON member.
TAR_NAMES: dict[str, str] = {
    "image": ";".join(_PICTURES),
    "caption": "txt;json:caption",
    "source": ";".join(f"source.{ending}" for ending in _PICTURES),
    "target": ";".join(f"target.{ending}" for ending in _PICTURES),
    "instruction": "instruction.txt;txt;json:instruction",
    "question": "question.txt;json:question",
    "answer": "answer.txt;json:answer",
}

#: Where a Parquet file holds a field, the first column that is there.
PARQUET_NAMES: dict[str, str] = {
    "image": "image;jpg;png",
    "caption": "caption;text",
    "source": "source;source_image;source_img;input_image;original_image",
    "target": "target;target_image;target_img;edited_image;output_image",
    "instruction": "instruction;edit_prompt;edit_instruction;prompt",
    "question": "question",
    "answer": "answer",
}


def places_of(kind: Kind, parquet: bool, chosen: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Field → the members or columns to look for it in, in order; `chosen` names them instead of the defaults."""
    defaults = PARQUET_NAMES if parquet else TAR_NAMES
    return {name: tuple(chosen.get(name, defaults[name]).split(";")) for name in FIELDS[kind].all}
