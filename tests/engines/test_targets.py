"""The table of targets and the commands that show it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unipic2_edge.engines.targets import TARGETS, find_target
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.cli import main
from unipic2_edge.runtime.errors import RequestError


def _document(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    content: dict[str, object] = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    return content


def test_every_target_says_what_serves_it_and_where_that_is_from() -> None:
    for name, target in TARGETS.items():
        assert target.name == name
        assert target.backends
        assert target.precisions
        assert target.source


def test_an_unknown_target_names_the_known_ones() -> None:
    with pytest.raises(RequestError) as refused:
        find_target("rtx-9999")
    assert "rtx-9999" in refused.value.problem
    assert "cpu" in refused.value.mend


def test_targets_lists_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "--json"]) == 0
    document = _document(capsys)
    assert document["ok"] is True
    assert [target["name"] for target in document["targets"]] == list(TARGETS)  # type: ignore[attr-defined]


def test_build_reports_engines_and_then_the_hit(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    for cached in (False, True):
        assert main(["build", str(bundle.folder), "--target", "cpu", "--json"]) == 0
        made = _document(capsys)["targets"]["cpu"]  # type: ignore[index]
        assert made["cached"] is cached
        assert made["engines"] == ["line", "picture"]
        assert made["backend"] == "onnxruntime"


def test_a_dry_run_builds_nothing(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(bundle.folder), "--target", "cpu", "--dry-run", "--json"]) == 0
    assert _document(capsys)["targets"] == {"cpu": ["line", "picture"]}
    assert not (bundle.folder / "engines").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "rtx-9999"], "there is no target 'rtx-9999'"),
        (["--target", "cpu,"], "there is no target ''"),
        (["--target", "cpu", "--threads", "0"], "0 threads cannot work"),
        (["--target", "cpu", "--threads", "many"], "invalid int value"),
        ([], "--target"),
    ],
)
def test_wrong_requests_are_refused_in_one_line_and_change_nothing(
    bundle: Bundle, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["build", str(bundle.folder), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 2
    assert not (bundle.folder / "engines").exists()


def test_what_is_no_bundle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(tmp_path), "--target", "cpu"]) == 2
    assert "is not a bundle" in capsys.readouterr().err
