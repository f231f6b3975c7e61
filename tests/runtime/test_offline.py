"""`batch`: a file of prompts made into pictures, going on where it stopped, with what is wrong named by its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from unipic2_edge.runtime.cli import main


def _file(folder: Path, *lines: object) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def _run(bundle: Path, file: Path, output: Path, *options: str) -> int:
    return main(["batch", str(bundle), str(file), str(output), "--device", "cpu", "--threads", "1", *options])


def test_every_line_is_a_picture(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    lines = [{"prompt": "a red circle", "seed": 3}, "", {"prompt": "make blue", "image": str(tmp_path / "red.png")}]
    output = tmp_path / "out"
    assert _run(folder, _file(tmp_path, *lines), output) == 0
    assert sorted(path.name for path in output.iterdir()) == ["000001.png", "000003.png"]
    alone = tmp_path / "alone.png"
    main(["generate", str(folder), "a red circle", "--seed", "3", "-o", str(alone), "--device", "cpu"])
    assert alone.read_bytes() == (output / "000001.png").read_bytes()


def test_what_is_there_is_not_made_again(folder: Path, tmp_path: Path) -> None:
    file, output = _file(tmp_path, {"prompt": "a circle"}, {"prompt": "a square"}), tmp_path / "out"
    output.mkdir()
    (output / "000001.png").write_bytes(b"mine")
    assert _run(folder, file, output) == 0
    assert (output / "000001.png").read_bytes() == b"mine"
    assert (output / "000002.png").is_file()


def test_lines_that_cannot_be_made_are_named_and_the_others_stand(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"prompt": "a circle", "width": 33}, {"prompt": "a circle"}, {"prompt": "a", "image": "none.png"}]
    assert _run(folder, _file(tmp_path, *lines), tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "2 of 3 lines" in said
    assert "line 1" in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["000002.png"]


@pytest.mark.parametrize(
    ("line", "said"),
    [("{", "line 1"), ({"prompt": 3}, "prompt"), ({"prompts": "a"}, "unknown field"), ({}, "missing")],
)
def test_a_wrong_line_is_refused_before_any_work(
    line: Any, said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(folder, _file(tmp_path, line), tmp_path / "out") == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_replicas_make_the_same_pictures(folder: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    file = _file(tmp_path, *({"prompt": "a circle", "seed": seed} for seed in range(6)))
    assert _run(folder, file, tmp_path / "one") == 0
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        assert _run(folder, file, tmp_path / "two", "--replicas", "2") == 0
    finally:
        ray.shutdown()
    for seed in range(6):
        name = f"{seed + 1:06}.png"
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
