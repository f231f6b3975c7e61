"""The JSON schema of reports (draft 2020-12), made from the types beside it.

python -m unipic2_edge.bench.schema.document > bench/report.schema.json
"""

from __future__ import annotations

import inspect
import json
from typing import Any

import msgspec

from .kinds import FURTHER, RESULTS
from .values import Machine

_WHEN = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$"


def report_schema() -> dict[str, Any]:
    """The schema: what all reports have, and the results of each kind."""
    types = [Machine, *FURTHER, *RESULTS.values()]
    schemas, definitions = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    results = schemas[-len(RESULTS) :]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A report of `unipic2-edge bench`",
        "type": "object",
        "required": ["benchmark", "when", "settings", "results", "machine"],
        "properties": {
            "benchmark": {"type": "string"},
            "when": {"type": "string", "pattern": _WHEN},
            "settings": {"type": "object"},
            "results": {"type": "object"},
            "machine": schemas[0],
        },
        "allOf": [
            {
                "if": {"properties": {"benchmark": {"const": kind}}},
                "then": {"properties": {"results": schema}},
            }
            for kind, schema in zip(RESULTS, results, strict=True)
        ],
        "$defs": {name: _without_indentation(definition) for name, definition in definitions.items()},
    }


def _without_indentation(definition: dict[str, Any]) -> dict[str, Any]:
    """The same whether this msgspec cleans docstrings (from 0.23 on) or not."""
    said = definition.get("description")
    return definition | {"description": inspect.cleandoc(said)} if said else definition


def schema_text() -> str:
    """The file's text."""
    return json.dumps(report_schema(), indent=2) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
