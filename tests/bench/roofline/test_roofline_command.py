"""`bench roofline` and `bench predict` on a tiny bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from unipic2_edge.bench.roofline.calls import WorkTable, asked_calls, recorded_runs
from unipic2_edge.bench.roofline.workload import Workload
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.cli import main
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.runtime.settings import Task

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("task", "graphs"), [("generate", 7 - 1), ("edit", 7)])
def test_what_a_pipeline_would_call_is_what_it_calls(tiny_bundle: Path, task: Task, graphs: int) -> None:
    workload, bundle = Workload(task, 96, 64, 3, 3.5), Bundle(tiny_bundle)
    asked = [(call.graph, call.extents) for call in asked_calls(bundle, workload, WorkTable(bundle))]
    ((run, seconds),) = recorded_runs(Pipeline.load(tiny_bundle, "cpu", threads=1), workload, 1)
    assert [(call.graph, call.extents) for call in run] == asked
    assert len({name for name, _ in asked}) == graphs
    assert [name for name, _ in asked].count("denoiser") == 3
    assert 0 < sum(call.seconds or 0.0 for call in run) < seconds


@pytest.mark.parametrize("task", ["generate", "edit"])
def test_a_denoiser_alone_makes_its_own_calls_and_no_others(tiny_bundle: Path, task: Task) -> None:
    workload, whole = Workload(task, 96, 64, 2, 3.5, pictures=2), Bundle(tiny_bundle)
    graphs = {name: graph for name, graph in whole.manifest.graphs.items() if graph.component == "denoiser"}
    alone = Bundle(tiny_bundle, msgspec.structs.replace(whole.manifest, graphs=graphs))
    found = asked_calls(alone, workload, WorkTable(alone))
    assert found == [call for call in asked_calls(whole, workload, WorkTable(whole)) if call.graph in graphs]


def _bench(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert main(["bench", *map(str, words), "--json"]) == 0, capsys.readouterr().err
    document: dict[str, Any] = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    return document


def test_a_roofline_calibrates_a_prediction(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "roofline.json"
    found = _bench(
        capsys, "roofline", tiny_bundle, "--task", "edit", "--steps", 2, "--runs", 1, "--threads", 1,
        "--device", "cpu", "-o", written,
    )  # fmt: skip
    stages = {stage["graph"]: stage for stage in found["results"]["stages"]}
    assert stages["denoiser"]["calls"] == 2
    assert all(stage["mfu"] > 0 and stage["by"] in ("compute", "memory", "overhead") for stage in stages.values())
    made = _bench(
        capsys, "predict", tiny_bundle, "--task", "edit", "--calibrate", written, "--targets", "rtx-40,jetson-orin"
    )
    efficiency = made["results"]["efficiency"]
    assert efficiency["source"].startswith("roofline.json: tiny-kontext, edit at 64x64 on ")
    predicted = [entry for entry in made["results"]["predictions"] if entry["reason"] is None]
    for entry in predicted:
        assert entry["predicted_seconds"] == pytest.approx(sum(term["predicted_seconds"] for term in entry["terms"]))
        assert entry["predicted_seconds"] >= entry["least_seconds"] > 0
    assert {entry["target"] for entry in predicted} == {"rtx-40", "jetson-orin"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("roofline", "--runs", "0"), "measure nothing"),
        (("roofline", "--size", "wide"), "is not WxH"),
        (("predict", "--efficiency", "1.5"), "impossible"),
        (("predict", "--calibrate", "missing.json"), "cannot read missing.json"),
        (("predict", "--efficiency", "0.5", "--targets", "abacus"), "there is no target"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tiny_bundle: Path, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", words[0], str(tiny_bundle), *words[1:]]) == 2
    assert said in capsys.readouterr().err


def test_another_report_is_no_calibration(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = tmp_path / "startup.json"
    foreign.write_text('{"benchmark": "startup", "settings": {}, "results": {}}', encoding="utf-8")
    assert main(["bench", "predict", str(tiny_bundle), "--calibrate", str(foreign)]) == 2
    assert "is no roofline report" in capsys.readouterr().err
