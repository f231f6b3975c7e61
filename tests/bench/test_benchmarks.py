"""`bench` on a tiny model: reports with settings and machine, agreement with PyTorch, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from unipic2_edge.bench.startup import measure_startup
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.cli import main
from unipic2_edge.runtime.engine import built_targets
from unipic2_edge.runtime.errors import WorkError

pytestmark = pytest.mark.slow


def _bench(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert main(["bench", *map(str, words), "--json"]) == 0, capsys.readouterr().err
    document: dict[str, Any] = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert document["machine"]["cores"] >= 1
    return document


def test_the_runtime_agrees_with_pytorch_and_diffusers(
    tiny_bundle: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    written, bundle = tmp_path / "compare.json", shutil.copytree(tiny_bundle, tmp_path / "bundle")  # engines go into it
    document = _bench(
        capsys, "compare", bundle, "--checkpoint", tiny_checkpoint, "--peers", "eager,eager-bf16,diffusers,sdcpp",
        "--backends", "auto,openvino", "--tasks", "generate,edit,step", "--prompts", 1, "--steps", 4, "--threads", 1,
        "--size", "64x64", "--together", "-o", written,
    )  # fmt: skip
    for task, found in document["results"].items():
        exact, half, diffusers, sdcpp, *bundles = found["rows"]
        assert found["reference"] == exact["name"] == "PyTorch eager fp32"
        assert exact["latents_error"] == 0 and exact["speedup"]["median"] == 1
        assert 1e-4 < half["latents_error"] < 0.2  # another dtype, the same model
        assert [row["name"] for row in bundles] == ["bundle (fp32), as served", "bundle (fp32), OpenVINO"]
        for row in bundles if task != "generate" else [diffusers, *bundles]:
            assert row["latents_error"] <= 1e-3 and row["same"] is True
            assert task == "step" or row["psnr_db"] == "identical" or row["psnr_db"] >= 45
            assert row["seconds"]["count"] == row["speedup"]["count"] == len(row["samples"]) == 1
        if task != "generate":
            assert diffusers["reason"] == f"{task}: diffusers' SD3 pipeline takes no reference latents"
        assert "stable-diffusion" in sdcpp["reason"] and sdcpp["seconds"] is None
    assert document["settings"]["threads"] == 1
    assert built_targets(Bundle(bundle)) == []  # the bundle is served as before
    del document["ok"]
    assert json.loads(written.read_text(encoding="utf-8")) == document


def test_a_checkpoint_alone_is_compared_in_processes_one_at_a_time(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = _bench(
        capsys, "compare", "--checkpoint", tiny_checkpoint, "--peers", "eager", "--tasks", "step", "--prompts", 2,
        "--one-at-a-time", "--size", "64x64", "--context", 33,
    )  # fmt: skip
    (row,) = document["results"]["step"]["rows"]
    assert len(row["samples"]) == 2 and row["resident_bytes"] > 1e8


def test_comparing_with_another_checkpoint_is_refused(
    tiny_bundle: Path, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(tiny_checkpoint, tmp_path / "other")
    config = other / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text(encoding="utf-8").replace("}", " }"), encoding="utf-8")
    assert main(["bench", "compare", str(tiny_bundle), "--checkpoint", str(other)]) == 2
    assert "was not made from" in capsys.readouterr().err


def test_quality_reports_four_scores(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = _bench(capsys, "quality", tiny_bundle, "--prompts", 6, "--steps", 1, "--guidance", 1)
    assert list(document["results"]) == ["reconstruction", "generation", "editing", "held-out combinations"]
    for score in document["results"].values():
        assert score["total"] == 6
        assert score["mean"] == 0.0  # random weights draw nothing of this world
    assert (document["settings"]["steps"], document["settings"]["guidance"]) == (1, 1.0)


def test_startup_measures_fresh_processes(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = _bench(capsys, "startup", tiny_bundle, "--runs", 1, "--steps", 1)["results"]
    assert list(results) == ["python", "help", "import", "first_picture"]
    assert results["first_picture"]["median"] > results["python"]["median"] > 0


def test_a_process_that_fails_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="not exist"):
        measure_startup(tmp_path / "none", 1, 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["quality", "{bundle}", "--prompts", "0"], "0 prompts"),
        (["quality", "{none}"], "does not exist"),
        (["startup", "{bundle}", "--runs", "0"], "0 runs"),
        (["compare"], "nothing to compare"),
        (["compare", "{bundle}", "--peers", "eager"], "peers work from a checkpoint"),
        (["compare", "{bundle}", "--tasks", "paint"], "no task 'paint'"),
        (["compare", "{bundle}", "--backends", "fast"], "no backend 'fast'"),
        (["compare", "{bundle}", "--python", "eager=python"], "no interpreter of a peer"),
        (["compare", "{bundle}", "--fail-if-slower", "5%"], "for stored reports"),
        (["compare", "{bundle}", "--prompts", "0"], "nothing measures nothing"),
        (["compare", "{none}.json"], "two reports compare, not 1"),
        (["compare", "{bundle}", "--checkpoint", "{none}"], "no checkpoint folder"),
        (["speed", "{bundle}"], "invalid choice"),
        ([], "KIND"),
    ],
)
def test_wrong_requests_are_refused_in_two_lines(
    tiny_bundle: Path, tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [word.format(bundle=tiny_bundle, none=tmp_path / "none") for word in words]
    assert main(["bench", *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert said in error[0]
    assert len(error) == 2
