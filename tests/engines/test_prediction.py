"""Activation memory as predicted, against what the library reported for the full-size denoiser (bench/results)."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from onnx import helper

from unipic2_edge.engines.prediction import activation_bytes

RESULTS = Path(__file__).parents[2] / "bench" / "results" / "epyc-4core"
ROUNDED = {"int8": "QuantizeLinear", "fp8": "QuantizeLinear", "nvfp4": "TRT_FP4DynamicQuantize"}


def _rows(report: str) -> list[dict[str, Any]]:
    rows = json.loads((RESULTS / report).read_text())["results"]["rows"]
    return [row for row in rows if row["graph"] == "denoiser" and row["activation_bytes"]]


def _bundle(formats: tuple[str, ...], operator: str) -> Any:
    node = helper.make_node(operator, ["x", "s", "z"], ["y"])
    model = helper.make_model(helper.make_graph([node], "graph", [], []))
    return SimpleNamespace(
        manifest=SimpleNamespace(components={"denoiser": SimpleNamespace(formats=formats)}),
        graph=lambda name: SimpleNamespace(file="graphs/denoiser.onnx"),
        read=lambda file: model.SerializeToString(),
    )


def _spec(capabilities: tuple[str, ...]) -> Any:
    profile = {"patches": SimpleNamespace(max=(4, 8192, 64)), "context": SimpleNamespace(max=(4, 333, 1536))}
    return SimpleNamespace(graph="denoiser", precision="bfloat16", profile=profile, capabilities=capabilities)


@pytest.mark.parametrize(
    ("report", "rounded"),
    [
        ("engines.json", False),
        ("engines-int.json", False),
        ("engines-nvfp4-weight.json", False),
        ("engines-calibrated.json", True),
    ],
)
def test_what_is_predicted_is_near_what_was_reported(report: str, rounded: bool) -> None:
    for row in _rows(report):
        words = row["precision"].split()
        formats = (words[0],) if len(words) > 1 else ()
        operator = ROUNDED[words[0]] if rounded else "DequantizeLinear"
        spec = _spec(("7.5",) if row["target"] == "rtx-20" else ("8.9",))
        predicted = activation_bytes(_bundle(formats, operator), spec)
        assert predicted == pytest.approx(row["activation_bytes"], rel=0.05)
