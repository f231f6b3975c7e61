"""`bench step` on the tiny model: every way computes the same step, each in a process of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from unipic2_edge.bench.denoiser_step import Task, contestants, measure, step_lines
from unipic2_edge.runtime.cli import main


@pytest.mark.slow
def test_all_ways_compute_the_same_step(tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))  # engines are built into it
    entrants = contestants(tiny_checkpoint, [bundle], ["eager-fp32", "eager-bf16"], bfloat16=False)
    assert [entrant.backend for entrant in entrants] == ["eager", "eager", "onnxruntime", "openvino"]
    seen: list[str] = []
    rows = measure(entrants, Task((96, 64), 33, 1, 2), 1, seen.append)
    assert seen == [row.name for row in rows]
    exact, half, *bundles = rows
    assert exact.velocity_error == 0
    assert exact.speedup.median == 1
    assert 1e-4 < half.velocity_error < 0.05  # another dtype, the same model
    assert all(row.velocity_error < 1e-5 for row in bundles)
    assert all(row.seconds.count == 2 and row.seconds.least > 0 for row in rows)
    assert len(step_lines(rows)) == 2 + len(rows)


@pytest.mark.parametrize("arguments", [["--peers", "eager-fp8"], ["--rounds", "0"]])
def test_what_cannot_be_measured_is_refused(
    arguments: list[str], tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "step", str(tiny_checkpoint), *arguments]) == 2
    assert "use" in capsys.readouterr().err
