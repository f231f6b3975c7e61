"""The steps themselves on the tiny model and this processor, then the page of their report."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from unipic2_edge.bench.acceptance import peaks, pictures
from unipic2_edge.bench.acceptance.child import perform
from unipic2_edge.bench.acceptance.commands import _write_page
from unipic2_edge.bench.acceptance.ledger import Ledger, told
from unipic2_edge.bench.acceptance.step import Job, Record, Setting
from unipic2_edge.bench.acceptance.table import steps_of
from unipic2_edge.bench.reporting.acceptance_kind import acceptance_sections, acceptance_tiles
from unipic2_edge.bench.reporting.document import document
from unipic2_edge.bench.reporting.index import headline
from unipic2_edge.bench.reporting.stored import read_reports
from unipic2_edge.bench.roofline.limits import Limits
from unipic2_edge.bench.statistics import spread
from unipic2_edge.runtime.cli import main

DONE = (
    "environment/machine",
    "limits/device",
    "correctness/export/fp32",
    "correctness/agree/onnxruntime-fp32",
    "correctness/tests",
    "denoiser/weights",
    "denoiser/export/fp32",
    "denoiser/step/pytorch/edit-64x64",
    "denoiser/step/onnxruntime-fp32/edit-64x64",
    "pictures/made/onnxruntime-fp32",
)


def _do(setting: Setting, ledger: Ledger, names: tuple[str, ...]) -> dict[str, Record]:
    """Steps of the real table in this process: what the processes are for has tests of its own."""
    for step in steps_of(setting):
        if step.name in names:
            found = {name: record.results for name, record in ledger.records.items() if record.status == "passed"}
            shown = {name: found[name] for name in (*step.after, *step.uses) if name in found}
            ledger.add(perform(Job(setting=setting, step=step, found=shown)))
    return ledger.records


@pytest.mark.slow
def test_the_chain_on_a_processor(
    tmp_path: Path, tiny_checkpoint: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits("processor", "measured: a stand-in", {"float32": 1e12}, 1e10)  # the real ones take seconds
    monkeypatch.setattr(peaks, "measure_limits", lambda *arguments: limits)
    monkeypatch.setattr(pictures, "_TIMED", 1)
    setting = Setting(
        device="cpu",
        work=str(tmp_path / "work"),
        small=str(tiny_checkpoint),
        model="tiny-kontext",
        layers=1,
        workloads=(("edit", 64, 64),),
        peers=("eager",),
        prompts=1,
        seconds=0.1,
        threads=1,
        checkout=str(tmp_path),
    )
    shutil.copytree(tiny_bundle, setting.folder / "small" / "fp32")  # an export that stands is kept
    ledger = Ledger(tmp_path / "accept.json", told(setting), {"processor": "one", "cores": 2})
    records = _do(setting, ledger, DONE)
    assert list(records) == list(DONE)
    states = {name: (record.status, record.reason) for name, record in records.items()}
    assert states.pop("correctness/tests") == ("skipped", "this is no checkout: the tests are not here")
    assert set(states.values()) == {("passed", "")}
    agreement = records["correctness/agree/onnxruntime-fp32"].results
    assert all(row["latents_error"] < 1e-3 for row in agreement["rows"]) and agreement["same_seed_same_bytes"]
    assert records["denoiser/weights"].results["layers"] == 1
    engine = records["denoiser/step/onnxruntime-fp32/edit-64x64"].results["rows"][-1]
    assert engine["name"] == "engine" and engine["velocity_error"] < 1e-4
    work = records["denoiser/export/fp32"].results["matrix_operations"]["edit 64x64"]
    assert engine["mfu_measured"] == pytest.approx(sum(work.values()) / 1e12 / engine["seconds"]["median"])
    _check_page(tmp_path, ledger)


def _check_page(tmp_path: Path, ledger: Ledger) -> None:
    _write_page(ledger, tmp_path / "accept.html")
    text = (tmp_path / "accept.html").read_text(encoding="utf-8")
    for said in ("No GPU: the processor&#x27;s rows only", "onnxruntime-fp32", "1 of 2 layers", "<svg", "no checkout"):
        assert said in text
    assert "http://" not in text and "https://" not in text and str(tmp_path) not in text


@pytest.mark.slow
def test_the_command_goes_on_and_says_how_it_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "accept", "--device", "cpu", "--only", "environment", "-o", str(tmp_path / "out")]
    words += ["--work", str(tmp_path / "work"), "--quiet"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "passed" in said and "1 passed, 0 failed, 0 skipped" in said
    first = (tmp_path / "out" / "accept.json").stat().st_mtime_ns
    assert main([*words, "--json"]) == 0
    assert '"passed": 1' in capsys.readouterr().out
    assert (tmp_path / "out" / "accept.html").is_file() and (
        tmp_path / "out" / "accept.json"
    ).stat().st_mtime_ns > first
    assert main([*words, "--layers", "1"]) == 2
    assert "another layers" in capsys.readouterr().err


def _gpu_report(tmp_path: Path) -> Ledger:
    """A report as a card would leave it; its figures are made up and go nowhere but into these tests."""
    setting = Setting(
        device="gpu:0", capability="8.9", work="w", model="unipic2-sd3.5m-kontext", workloads=(("edit", 512, 512),)
    )
    machine = {"processor": "one", "cores": 2, "gpus": ["NVIDIA Thing, compute capability 8.9"]}
    ledger = Ledger(tmp_path / "accept.json", told(setting), machine)
    second = spread([0.1, 0.2]).to_dict()
    rows: list[dict[str, Any]] = [
        {"name": "eager", "seconds": second, "memory_bytes": 5_000_000_000, "velocity_error": 0.0, "mfu_measured": 0.3},
        {
            "name": "engine", "seconds": second, "memory_bytes": None, "velocity_error": 0.01, "mfu_measured": 0.65,
            "times_eager": spread([2.5]).to_dict(), "times_compile": spread([0.8]).to_dict(),
        },
    ]  # fmt: skip
    weights = {"parameters": 2_200_000_000, "layers": 24, "whole_layers": 24, "dtype": "bfloat16", "bytes": 1}
    measured = {"way": "tensorrt_rtx-bf16", "recipe": "bf16", "workload": "edit 512x512", "rows": rows}
    measured["problems"] = {"compile": "RuntimeError: no compiler"}
    memory_row = {"graph": "denoiser", "measured_bytes": 3_100_000_000, "predicted_bytes": 3_000_000_000}
    memory = {"model": "large", "way": "tensorrt_rtx-bf16", "rows": [memory_row], "context_bytes": 500_000_000}
    memory["assumed_context_bytes"] = 400_000_000
    for name, results in (
        ("denoiser/weights", weights),
        ("denoiser/step/tensorrt_rtx-bf16/edit-512x512", measured),
        ("memory/large/tensorrt_rtx-bf16", memory),
    ):
        ledger.add(Record(name=name, title=name, status="passed", seconds=1.0, results=results))
    ledger.add(
        Record(name="correctness/a", title="a", status="skipped", seconds=0.0, reason="missing package: tensorrt")
    )
    ledger.add(Record(name="correctness/b", title="b", status="failed", seconds=1.0, reason="NaN"))
    return ledger


def test_the_page_of_a_card_shows_goals_troubles_and_ratios(tmp_path: Path) -> None:
    ledger = _gpu_report(tmp_path)
    (report,) = read_reports([ledger.path])
    headings = [heading for heading, _ in acceptance_sections(report) if heading]
    assert headings == [
        "What did not pass", "Goals", "A denoising step of unipic2-sd3.5m-kontext", "Memory on the GPU", "Every step",
    ]  # fmt: skip
    assert [tile.value for tile in acceptance_tiles(report)] == ["3 of 5", "2 of 3", "2.50×"]
    _write_page(ledger, tmp_path / "accept.html")
    text = (tmp_path / "accept.html").read_text(encoding="utf-8")
    for said in (
        "Acceptance of NVIDIA Thing", "missing package: tensorrt", "missed", "2.50×", "65.0\u00a0%",
        "compile: RuntimeError: no compiler", "103.3\u00a0%",
    ):  # fmt: skip
        assert said in text
    assert headline(report) == "5 steps: 3 passed, 1 failed, 1 skipped; 2 of 3 goals met"
    broken = {
        "way": "tensorrt-fp32",
        "same_seed_same_bytes": False,
        "allowed_latents_error": 0.01,
        "allowed_psnr_db": 40,
    }
    row = {"task": "edit", "latents_error": float("nan"), "psnr_db": 3.5}
    record = Record(
        name="correctness/agree/c", title="c", status="failed", seconds=1.0, results={**broken, "rows": [row]}
    )
    ledger.add(msgspec.json.decode(msgspec.json.encode(record), type=Record))  # as it comes from its process
    _write_page(ledger, tmp_path / "accept.html")
    assert ">NaN<" in (tmp_path / "accept.html").read_text(encoding="utf-8")
    assert any(part.heading.startswith("accept") for part in document([report]))


def test_a_stored_goal_is_a_goal(tmp_path: Path) -> None:
    """What the page reads is what the ledger wrote, also after it was read back."""
    first = _gpu_report(tmp_path)
    again = Ledger(first.path, first.report().settings, {})
    assert again.records == first.records
    assert [goal["met"] for goal in again.report().results["goals"]] == [True, False, True]  # type: ignore[index, union-attr, attr-defined]
    assert msgspec.json.decode(first.path.read_bytes())["results"]["goals"][0]["found"] == 2.5
