"""`export` on the command line: what it answers, and what a user's mistakes look like."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unipic2_edge.runtime.cli import main


def _answer(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    answer: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return answer


def test_it_says_what_it_wrote(tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / "bundle"
    words = [
        "export",
        str(tiny_checkpoint),
        str(bundle),
        "--components",
        "text_encoder",
        "--verify",
        "--json",
        "--quiet",
    ]
    assert main(words) == 0
    answer = _answer(capsys)
    assert answer["ok"] is True
    assert list(answer["components"]) == ["text_encoder"]  # type: ignore[call-overload]
    assert answer["bytes"] == sum(
        path.stat().st_size
        for path in bundle.rglob("*")
        if path.is_file() and path.name not in ("bundle.json", "quality.json")
    )
    assert answer["worst"]["text_encoder"] < 1e-5  # type: ignore[index]
    assert (bundle / "quality.json").is_file()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["missing", "bundle"], "there is no checkpoint folder"),
        (["empty", "bundle"], "is not a checkpoint"),
        (["{checkpoint}", "full"], "exists already and is not empty"),
        (["{checkpoint}", "bundle", "--recipe", "fp3"], "there is no export recipe 'fp3'"),
        (["{checkpoint}", "bundle", "--components", "denoiser,eyes"], "a kontext checkpoint has no component 'eyes'"),
        (["{checkpoint}", "bundle", "--precision", "fp13"], "there is no precision 'fp13'"),
        (["{checkpoint}", "bundle", "--recipe", "auto"], "--recipe auto and --budget go together"),
        (["{checkpoint}", "bundle", "--recipe", "auto", "--budget", "much"], "'much' is no budget"),
        (["{checkpoint}", "bundle", "--recipe", "int8", "--components", "vae"], "the gate makes whole pictures"),
        (["{checkpoint}"], "BUNDLE"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    words: list[str],
    problem: str,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    filled = [word.format(checkpoint=tiny_checkpoint) for word in words]
    assert main(["export", *filled, "--json"]) == 2
    captured = capsys.readouterr()
    error = json.loads(captured.out.splitlines()[-1])["error"]
    assert problem in error["problem"]
    assert error["mend"]
    assert "Traceback" not in captured.err
    assert sorted(tmp_path.rglob("*")) == before
