"""`bench` on a tiny model: reports with settings and machine, agreement with PyTorch, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unipic2_edge.bench.startup import measure_startup
from unipic2_edge.runtime.cli import main
from unipic2_edge.runtime.errors import WorkError

pytestmark = pytest.mark.slow


def _bench(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert main(["bench", *map(str, words), "--json"]) == 0, capsys.readouterr().err
    document: dict[str, Any] = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert document["machine"]["cores"] >= 1
    return document


def test_the_runtime_agrees_with_pytorch(
    tiny_bundle: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    written = tmp_path / "compare.json"
    document = _bench(
        capsys, "compare", tiny_bundle, "--checkpoint", tiny_checkpoint, "--prompts", 1, "--steps", 4, "--threads", 1,
        "-o", written,
    )  # fmt: skip
    for task in ("generate", "edit"):
        made = document["results"][task]
        assert made["latents_relative_error_max"] <= 1e-3
        assert made["picture_psnr_min_db"] == "identical" or made["picture_psnr_min_db"] >= 45
        assert made["runtime_seconds"]["count"] == made["speedup"]["count"] == 1
    assert document["settings"]["threads"] == 1
    del document["ok"]
    assert json.loads(written.read_text(encoding="utf-8")) == document


def test_comparing_with_another_checkpoint_is_refused(
    tiny_bundle: Path, tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

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
        (["compare", "{bundle}"], "--checkpoint"),
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
