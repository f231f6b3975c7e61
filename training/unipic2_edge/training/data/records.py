"""Records as they lie in shards, where they lie, and what can be wrong with them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class BrokenShardError(Exception):
    """A shard cannot be read, or no further than the records that came before."""


class BadRecordError(Exception):
    """One record cannot be used; the next may."""


class Place(NamedTuple):
    """Where a record lies: enough to read it again."""

    source: int  # of the recipe's sources of one kind
    epoch: int  # of that source
    shard: int  # of that source's shards, in the order of their names
    number: int  # of the shard's records
    offset: int  # the byte where its first header begins in a tar, its row in Parquet


@dataclass(frozen=True)
class Raw:
    """A record's bytes and texts, by member or column; `after` is the offset at which the next one begins."""

    key: str
    number: int
    offset: int
    after: int
    values: Mapping[str, Any]


def picked(values: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first of a field's members or columns that is there; `json:caption` is a key of the member `json`.

    Raises:
        BadRecordError: none is there, or its JSON does not parse.
    """
    for name in names:
        member, _, key = name.partition(":")
        if values.get(member) is None:
            continue
        if not key:
            return values[member]
        content = _json(values[member], member)
        if content.get(key) is not None:
            return content[key]
    raise BadRecordError(f"none of {', '.join(names)} is there")


def text_of(value: Any, longest: int) -> str:
    """A field as text without blanks around it; of a list the first.

    Args:
        value: a string, UTF-8 bytes, or a list of strings.
        longest: in characters.

    Raises:
        BadRecordError: it is no text, empty, or longer.
    """
    value = value[0] if isinstance(value, list) and value else value
    try:
        text = value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        raise BadRecordError("a text is not UTF-8") from error
    if not isinstance(text, str):
        raise BadRecordError(f"a text is {type(text).__name__}, not a string")
    if not text.strip():
        raise BadRecordError("a text is empty")
    if len(text) > longest:
        raise BadRecordError(f"a text has {len(text)} characters, more than {longest}")
    return text.strip()


def bytes_of(value: Any) -> bytes:
    """A field as a picture's bytes: as they are, or Hugging Face's `{"bytes": …, "path": …}`.

    Raises:
        BadRecordError: there are no bytes; a path alone is not followed.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes")
    if not isinstance(value, bytes) or not value:
        raise BadRecordError("a picture has no bytes (paths and addresses are not followed)")
    return value


def _json(content: Any, member: str) -> dict[str, Any]:
    try:
        parsed = json.loads(content)
    except (ValueError, TypeError) as error:
        raise BadRecordError(f"the member {member} is not JSON") from error
    return parsed if isinstance(parsed, dict) else {}
