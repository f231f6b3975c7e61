"""The tables over engines: compiled, impossible, predicted, and the memory ladder computed from them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from unipic2_edge.bench.engine_table import engine_rows, prediction_errors, table
from unipic2_edge.bench.memory_ladder import assumed, bundle_needs, ladder, ladder_table
from unipic2_edge.engines.engine_set import Options
from unipic2_edge.engines.sizes import default_sizes
from unipic2_edge.engines.targets import find_target, targets_of
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.cli import main
from unipic2_edge.runtime.errors import RequestError
from unipic2_edge.runtime.memory_plan import Need


@pytest.fixture
def small(tiny_bundle: Path, tmp_path: Path) -> Path:
    """The tiny bundle, to write into."""
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


@pytest.mark.slow
def test_the_table_tells_engines_sharing_and_reasons(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = Bundle(small)
    options = Options(sizes=default_sizes(bundle.manifest))
    rows = engine_rows(bundle, targets_of("rtx-20,rtx-30,rtx-40,jetson-orin"), options)
    assert len(rows) == 4 * len(bundle.manifest.graphs)
    made = [row for row in rows if row.reason is None]
    assert {row.target for row in made} == {"rtx-30", "rtx-40"}
    assert all(row.shared_with for row in made)
    refused = {row.target: row.reason for row in rows if row.reason is not None}
    assert "float32" in str(refused["rtx-20"])
    assert "on linux-aarch64 alone" in str(refused["jetson-orin"])
    lines = table(rows)
    assert len(lines) == 2 + 3 * len(bundle.manifest.graphs)
    assert set(prediction_errors(rows)) >= {"engine_bytes", "build_peak_bytes", "weights_bytes", "activation_bytes"}
    for row in made:  # a model this small is mostly code and workspace, so some megabytes are allowed beside the 20 %
        assert row.predicted is not None
        for figure, slack in {"engine_bytes": 3e6, "build_peak_bytes": 0, "activation_bytes": 10e6}.items():
            found, predicted = getattr(row, figure), getattr(row.predicted, figure)
            assert abs(predicted - found) <= 0.2 * found + slack, f"{figure} of {row.graph}: {predicted}, not {found}"
    # What was compiled is not compiled again, and makes the ladder.
    assert main(["bench", "engines", str(small), "--targets", "rtx-30", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["results"]["rows"]
    needs = bundle_needs(bundle, find_target("rtx-40"))
    assert {need.graph: need.weights for need in needs} == {row.graph: row.weights_bytes for row in made}


def test_needs_of_what_is_not_compiled_are_predicted(small: Path) -> None:
    needs = bundle_needs(Bundle(small), find_target("rtx-40"))
    assert len(needs) == 7
    assert all(need.weights > 0 and need.activations > 0 for need in needs)
    assert not (small / "engines" / "rtx-40.json").exists()


def test_assumptions_replace_and_add_graphs() -> None:
    needs = assumed([Need("a", 1, 2), Need("b", 3, 4)], {"a": "1GB", "c": "2GB"})
    assert needs == [Need("a", 10**9, 2), Need("b", 3, 4), Need("c", 2 * 10**9, 0)]


def test_a_ladder_says_what_stays_and_what_is_impossible() -> None:
    rungs = ladder([Need("text", 10**10, 0), Need("denoiser", 3 * 10**9, 10**9)], [24 * 10**9, 12 * 10**9, 8 * 10**9])
    assert [rung.plan is not None for rung in rungs] == [True, True, False]
    lines = ladder_table(rungs)
    assert "text, denoiser" in lines[2]
    assert "text alone needs" in lines[4]


def test_the_ladder_is_a_command(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "memory", str(small), "--budgets", "24,1", "--assume", "text_encoder_3=9.5GB", "--json"]
    assert main(words) == 0
    rungs = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]["ladder"]
    assert [rung["plan"] is None for rung in rungs] == [False, True]


@pytest.mark.parametrize("words", [["--assume", "x"], ["--assume", "x=much"], ["--budgets", "big"], ["--target", "x"]])
def test_wrong_requests_are_refused(small: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "memory", str(small), *words]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 2


def test_an_amount_that_is_none_is_refused() -> None:
    with pytest.raises(RequestError):
        assumed([], {"a": "lots"})
