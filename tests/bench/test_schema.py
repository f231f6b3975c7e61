"""The schema of reports: current, right about every report that is stored here, and strict about what is not one."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from unipic2_edge.bench.reporting.stored import read_reports
from unipic2_edge.bench.results import Report
from unipic2_edge.bench.schema.document import report_schema, schema_text

BENCH = Path(__file__).parents[2] / "bench"
STORED = [report.path for report in read_reports([BENCH / "results"])]


def test_the_schema_is_current_and_a_schema() -> None:
    written = (BENCH / "report.schema.json").read_text(encoding="utf-8")
    assert written == schema_text(), "run: python -m unipic2_edge.bench.schema.document > bench/report.schema.json"
    jsonschema.Draft202012Validator.check_schema(report_schema())


@pytest.mark.parametrize("path", STORED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_stored_report_fits(path: Path) -> None:
    jsonschema.validate(json.loads(path.read_text(encoding="utf-8")), report_schema())


def test_a_new_report_of_any_kind_fits() -> None:
    fields = json.loads(json.dumps(Report("new", {"a": 1}, {"b": [1]}).to_dict()))
    jsonschema.validate(fields, report_schema())


def _startup() -> dict[str, Any]:
    spread = {"median": 1.0, "low": 1.0, "high": 1.0, "least": 1.0, "most": 1.0, "count": 3}
    return json.loads(json.dumps(Report("startup", {}, {"help": spread}).to_dict()))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("when",), "yesterday"),
        (("machine", "cores"), "two"),
        (("results", "help", "median"), None),
        (("results", "help"), {"median": 1.0}),
        (("settings",), []),
    ],
)
def test_what_is_none_is_refused(place: tuple[str, ...], value: object) -> None:
    report = _startup()
    jsonschema.validate(report, report_schema())
    spoilt: Any = copy.deepcopy(report)
    inner = spoilt
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(spoilt, report_schema())
