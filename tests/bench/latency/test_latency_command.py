"""`bench latency` on tiny bundles: reports that fit the schema, pages, the comparison of stored reports, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from unipic2_edge.bench.regression import changes, slower
from unipic2_edge.bench.schema.document import report_schema
from unipic2_edge.runtime.cli import main

pytestmark = pytest.mark.slow


def _latency(path: Path, capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    arguments = ["bench", "latency", *map(str, words), "--threads", "1", "--device", "cpu", "-o", str(path)]
    assert main(arguments) == 0, capsys.readouterr().err
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.validate(report, report_schema())
    return report


def test_two_bundles_by_turns(
    tiny_bundle: Path, metaquery_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "latency.json"
    report = _latency(
        path, capsys, tiny_bundle, metaquery_bundle, "--steps", "2,1", "--runs", 2, "--warm-up", 1, "--cold", 0,
        "--sizes", "64x64",
    )  # fmt: skip
    points = report["results"]["points"]
    assert [(point["bundle"], point["task"], point["steps"]) for point in points] == [
        *(("tiny-kontext fp32", task, steps) for task in ("generate", "edit") for steps in (2, 1)),
        *(("tiny-metaquery fp32", task, steps) for task in ("generate", "edit") for steps in (2, 1)),
        ("tiny-metaquery fp32", "describe", None),
    ]
    assert all(point["runs"] == 2 and min(point["samples"]) > 0 for point in points)
    assert points[-1]["to_first_token"]["p50"] <= points[-1]["stages"]["total"]["p50"]
    identity = report["results"]["bundles"]["tiny-kontext fp32"]
    assert len(identity["engines"]["denoiser"]["sha256"]) == len(identity["manifest"]) == 64
    assert all(load["total"] > 0 and "denoiser" in load["graphs"] for load in report["results"]["loads"])
    assert len(report["results"]["pictures"]) == 8
    assert slower(report, report, 0.0) == [] and len(changes(report, report)) == 10
    page = tmp_path / "page.html"
    assert main(["bench", "report", str(path), "-o", str(page)]) == 0, capsys.readouterr().err
    text = page.read_text(encoding="utf-8")
    assert "tiny-metaquery fp32, describe" in text and text.count("data:image/png") == 8


def test_cold_starts_are_fresh_processes(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = _latency(
        tmp_path / "cold.json", capsys, tiny_bundle, "--tasks", "generate", "--steps", 1, "--runs", 1, "--warm-up", 1,
        "--cold", 1,
    )  # fmt: skip
    cold = report["results"]["cold"]["tiny-kontext fp32"]
    assert 0 < cold["python"]["median"] < cold["first_picture"]["median"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--runs", "0"], "no runs"),
        (["--tasks", "describe"], "cannot describe"),
        (["--steps", "many"], "are no numbers"),
        (["--sizes", "64"], "is not WxH"),
        (["--sizes", "63x64", "--cold", "0"], "does not fit"),
        (["-o", "{none}/report.json"], "is no folder"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tiny_bundle: Path, tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [word.format(none=tmp_path / "none") for word in words]
    assert main(["bench", "latency", str(tiny_bundle), *arguments]) in (1, 2)
    error = capsys.readouterr().err.strip().splitlines()
    assert said in error[0] and len(error) == 2
