"""What GenEval asks of a picture: its metadata lines, read and checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from ..errors import DataError
from ..section import Count

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")


class Clause(msgspec.Struct, frozen=True):
    """Objects that must be there, `count` of a class or more; or, as an exclusion, that many must not be.

    `position` is a relation and the place of another clause among the inclusions, an earlier one.
    """

    name: str = msgspec.field(name="class")
    count: Count
    color: str | None = None
    position: tuple[str, int] | None = None


class Metadata(msgspec.Struct, frozen=True):
    """A line of GenEval's metadata. Whatever else stands there is ignored."""

    tag: str
    prompt: str
    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...] = ()


def parse_metadata(line: Any) -> Metadata:
    """A decoded line, checked.

    Raises:
        DataError: it is not of GenEval's form.
    """
    try:
        metadata = msgspec.convert(line, Metadata)
    except msgspec.ValidationError as error:
        raise DataError(f"this is no metadata of GenEval: {error}", _FORM) from error
    for problem, wrong in _problems(metadata).items():
        if wrong:
            raise DataError(f"this is no metadata of GenEval: {problem}", _FORM)
    return metadata


_FORM = 'for instance {"tag": "colors", "include": [{"class": "car", "count": 1, "color": "red"}], "prompt": "…"}'


def _problems(metadata: Metadata) -> dict[str, bool]:
    placed = [(index, clause.position) for index, clause in enumerate(metadata.include) if clause.position is not None]
    colors = {clause.color for clause in metadata.include} - {None, *COLORS}
    relations = {relation for _, (relation, _) in placed} - {*RELATIONS}
    return {
        f"there is no task {metadata.tag!r}, only {', '.join(TASKS)}": metadata.tag not in TASKS,
        "nothing is included": not metadata.include,
        f"no color {', '.join(map(str, colors))}, only {', '.join(COLORS)}": bool(colors),
        f"no relation {', '.join(relations)}, only {', '.join(RELATIONS)}": bool(relations),
        "a position must name an earlier clause": any(not 0 <= target < index for index, (_, target) in placed),
    }


def read_metadata(path: Path) -> list[tuple[Metadata, dict[str, Any]]]:
    """The lines of a file, each with what it was read from.

    Raises:
        DataError: it cannot be read, holds no line, or one that is not of GenEval's form.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the metadata {path} cannot be read: {error}", "give GenEval's own file, or one like it"
        ) from error
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            decoded = json.loads(line)
            found.append((parse_metadata(decoded), decoded))
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: {error}", "one JSON object a line") from error
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error.problem}", error.mend) from error
    if not found:
        raise DataError(f"the metadata {path} holds no line", _FORM)
    return found
