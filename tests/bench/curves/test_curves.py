"""`bench curves`: logs read into histories, and drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from unipic2_edge.bench.curves.drawing import draw_curves, running_mean
from unipic2_edge.bench.curves.history import read_history
from unipic2_edge.runtime.cli import main
from unipic2_edge.runtime.errors import RequestError


def _log(folder: Path, steps: int, every: int = 10, score: float = 0.5) -> Path:
    folder.mkdir()
    lines = []
    for step in range(every, steps + 1, every):
        lines.append({"step": step, "loss": 1 / step, "seconds_per_step": 3.6, "samples_per_second": 10.0})
        lines.append({"step": step, "generation": score, "editing": None})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_steps_samples_and_hours_add_up(tmp_path: Path) -> None:
    history = read_history("a run", [_log(tmp_path / "run", 100)])
    last = history.moments[-1]
    assert (last.steps, last.samples, last.hours) == (100, pytest.approx(3600), pytest.approx(0.1))
    assert history.curve("loss", "hours")[0] == (pytest.approx(0.01), pytest.approx(0.1))


def test_what_was_not_finite_is_left_out(tmp_path: Path) -> None:
    history = read_history("a run", [_log(tmp_path / "run", 20)])
    assert "editing" not in history.names()
    assert history.curve("generation", "steps") == [(10.0, 0.5), (20.0, 0.5)]


def test_a_run_that_went_on_from_another_is_appended(tmp_path: Path) -> None:
    runs = [_log(tmp_path / "first", 100), _log(tmp_path / "second", 50, score=0.7)]
    history = read_history("both", runs)
    assert [joint.steps for joint in history.joints] == [100]
    assert history.curve("generation", "steps")[-1] == (150.0, 0.7)
    assert history.moments[-1].hours == pytest.approx(0.15)


def test_the_mean_runs_over_what_is_there() -> None:
    assert running_mean([1.0, 3.0, 5.0], 2) == [1.0, 2.0, 4.0]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_command_draws_each_value(tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    _log(tmp_path / "one", 50)
    _log(tmp_path / "two", 50, score=0.25)
    picture = tmp_path / f"curves.{suffix}"
    runs = [f"first={tmp_path / 'one'}", f"second={tmp_path / 'two' / 'log.jsonl'}"]
    command = ["bench", "curves", *runs, "--over", "hours", "--values", "generation,loss", "-o", str(picture)]
    assert main(command) == 0
    assert "second: generation 0.25, loss 0.02" in capsys.readouterr().out
    if suffix == "png":
        with Image.open(picture) as image:
            assert image.width > 2 * image.height
            assert len(image.convert("RGB").getcolors(1 << 24) or []) > 10
    else:
        assert picture.read_text().count("<svg") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing", "-o", "c.png"], "cannot be read"),
        (["run", "-o", "c.txt"], "is none of .png, .svg, .pdf"),
        (["run", "--values", "beauty", "-o", "c.png"], "no run logged 'beauty'"),
        (["run", "--smooth", "0", "-o", "c.png"], "the mean of the last 0"),
        (["broken", "-o", "c.png"], "line 2 is no record"),
    ],
)
def test_bad_input_is_one_clear_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    _log(tmp_path / "run", 20)
    (_log(tmp_path / "broken", 0) / "log.jsonl").write_text('{"step": 1, "loss": 2}\n{"loss": 2}\n')
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "curves", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("c.*"))


def test_a_value_nobody_logged_names_those_that_were(tmp_path: Path) -> None:
    history = read_history("a run", [_log(tmp_path / "run", 20)])
    with pytest.raises(RequestError, match="generation, loss"):
        draw_curves([history], ["scores"], "steps")
