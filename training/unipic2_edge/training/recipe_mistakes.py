"""What is wrong with a recipe, in words: the field, what it should be, what it is, and what was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any, get_args

import msgspec

from .errors import RecipeError

_PLACE = re.compile(r" - at `\$\.?(?P<place>[^`]*)`$")
_NUMBER = re.compile(r"\[[^\]]*\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>[^`]*)`")
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`")
_EXPECTED = re.compile(r"Expected `(?P<kind>[^`]*)`(?P<range> [<>]=? [^ ,]+)?(?P<length> of length \S+)?(?=[, ]|$)")
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "array": "a list",
    "object": "a table",
}
_RANGES = {">=": "of at least", ">": "over", "<=": "of at most", "<": "under"}


def explained(where: str, message: str, content: dict[str, Any], schema: type[msgspec.Struct]) -> RecipeError:
    """An error for a user from msgspec's message.

    Args:
        where: the recipe's name.
        message: of the validation error.
        content: what was validated, overrides included.
        schema: what it was validated against.
    """
    found = _PLACE.search(message)
    place = found["place"] if found else ""
    if unknown := _UNKNOWN.search(message):
        key = ".".join(part for part in (place, unknown["name"]) if part)
        return RecipeError(f"{where}: there is no field {key}", _nearest(key, schema))
    if missing := _MISSING.search(message):
        key = ".".join(part for part in (place, missing["name"]) if part)
        return RecipeError(f"{where}: the field {key} is missing", "add it to the recipe, or with --set")
    given = _given(content, place)
    choices = _choices(schema, place)
    if choices:
        near = difflib.get_close_matches(str(given), choices, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else "correct the recipe or the --set option"
        return RecipeError(f"{where}: {place} is {given!r}, expected one of {', '.join(choices)}", hint)
    return RecipeError(
        f"{where}: {place} is {given!r}, expected {_expected(message)}", "correct the recipe or the --set option"
    )


def _nearest(key: str, schema: type[msgspec.Struct]) -> str:
    """The known key that was probably meant: of the same table first, then of any."""
    keys, key = list(_keys(schema)), _NUMBER.sub("[]", key)
    table, _, name = key.rpartition(".")
    beside = [each for each in keys if each.rpartition(".")[0] == table]
    near = difflib.get_close_matches(key, beside, 1, 0.6) or difflib.get_close_matches(key, keys, 1, 0.75)
    near = near or [each for each in keys if each.rpartition(".")[2] == name]
    if near:
        return f"did you mean {near[0]}?"
    names = ", ".join(each.rpartition(".")[2] for each in beside)
    return f"{table} has {names}" if table and names else f"a recipe has {', '.join(k for k in keys if '.' not in k)}"


def _keys(schema: type[msgspec.Struct], prefix: str = "") -> Iterator[str]:
    """Every field's dotted name, tables included."""
    for field in msgspec.structs.fields(schema):
        yield prefix + field.name
        if _is_table(field.type):
            yield from _keys(field.type, f"{prefix}{field.name}.")
        for kind in filter(_is_table, get_args(field.type)):  # a list of tables
            yield from _keys(kind, f"{prefix}{field.name}[].")


def _choices(schema: type[msgspec.Struct], place: str) -> list[str]:
    """What a field of fixed values may hold; empty for other fields."""
    kind: Any = schema
    for name in place.split("."):
        fields = {field.name: field.type for field in msgspec.structs.fields(kind)} if _is_table(kind) else {}
        kind = fields.get(_NUMBER.sub("", name))
        if "[" in name:
            kind = next(iter(get_args(kind)), None)
    info = msgspec.inspect.type_info(kind) if kind is not None else None
    return [str(value) for value in info.values] if isinstance(info, msgspec.inspect.LiteralType) else []


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _given(content: dict[str, Any], place: str) -> Any:
    """The value at `data.sizes[0]`-like places."""
    value: Any = content
    for step in re.findall(r"[^.\[\]]+|\[[^\]]*\]", place):
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.strip("[]").isdigit():
            value = value[int(step.strip("[]"))]
    return value


def _expected(message: str) -> str:
    """`int` >= 1 → a whole number of at least 1."""
    found = _EXPECTED.search(message)
    if found is None:
        return _PLACE.sub("", message)
    parts = [_KINDS.get(part.strip(), part.strip()) for part in found["kind"].split("|")]
    sign, _, bound = (found["range"] or "").strip().partition(" ")
    limit = f" {_RANGES[sign]} {bound.removesuffix('.0')}" if bound else ""
    length = (found["length"] or "").rstrip(",")
    return " or ".join(part for part in parts if part != "null") + length + limit
