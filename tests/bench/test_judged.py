"""`bench quality` of real models: GenEval's protocol and a judge, on a tiny bundle with stand-ins for who judges."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image

from unipic2_edge.bench.judged.edits import Opinions, mean_record, opinions_record
from unipic2_edge.bench.judged.geneval import by_task
from unipic2_edge.bench.schema.document import report_schema
from unipic2_edge.runtime.cli import main
from unipic2_edge.training.rewards.detection import ColorNamer, Detector
from unipic2_edge.training.rewards.geneval import GenevalReward
from unipic2_edge.training.rewards.geneval_rules import Found
from unipic2_edge.training.rewards.judge import Opinion
from unipic2_edge.training.rewards.reward import Picture
from unipic2_edge.training.rewards.settings import Geneval

from ..training.rewards.stub_judge import scores, stub_judge

LINES = [
    {"tag": "single_object", "include": [{"class": "car", "count": 1}], "prompt": "a photo of a car"},
    {"tag": "counting", "include": [{"class": "car", "count": 2}], "prompt": "a photo of two cars"},
    {"tag": "colors", "include": [{"class": "car", "count": 1, "color": "red"}], "prompt": "a photo of a red car"},
]


class OneCar(Detector):
    """Sees one car in every picture."""

    names = frozenset({"car"})

    def find(self, pictures: Sequence[Picture], threshold: float) -> list[list[Found]]:
        return [[Found("car", 0.95, (0, 0, 9, 9))] for _ in pictures]


class AllRed(ColorNamer):
    def name(self, picture: Picture, name: str, things: Sequence[Found]) -> list[str]:
        return ["red"] * len(things)


def _bench(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    assert main(["bench", "quality", *map(str, words), "--steps", "1", "--guidance", "1", "--json", "--quiet"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    jsonschema.validate(report, report_schema())
    return report


def _metadata(folder: Path, lines: list[dict[str, Any]] = LINES) -> Path:
    file = folder / "metadata.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_geneval_counts_by_task_and_keeps_its_own_layout(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Geneval] = []

    def load(settings: Geneval) -> GenevalReward:
        asked.append(settings)
        return GenevalReward(settings, OneCar(), AllRed())

    monkeypatch.setattr(GenevalReward, "load", load)
    kept, file = tmp_path / "kept", _metadata(tmp_path)
    words = [tiny_bundle, "--protocol", "geneval", "--metadata", file, "--samples", 2, "--detector", "my/cars"]
    report = _bench(capsys, *words, "--pictures", kept, "-o", tmp_path / "report.json")
    score = report["results"]["geneval"]
    assert score["mean"] == pytest.approx(2 / 3, abs=1e-4)
    right = {task: (made["right"], made["total"]) for task, made in score["tasks"].items()}
    assert right == {"single_object": (2, 2), "counting": (0, 2), "colors": (2, 2)}
    assert asked[0].detector == "my/cars"
    assert (report["settings"]["samples"], report["settings"]["detector"]) == (2, "cars")
    files = sorted(str(path.relative_to(kept).as_posix()) for path in kept.rglob("*") if path.is_file())
    assert files[:3] == ["00000/metadata.jsonl", "00000/samples/00000.png", "00000/samples/00001.png"]
    assert len(files) == 9
    assert json.loads((kept / "00001" / "metadata.jsonl").read_text()) == LINES[1]
    pictures = [np.asarray(Image.open(kept / "00000" / "samples" / f"0000{i}.png")) for i in (0, 1)]
    assert (pictures[0] != pictures[1]).any()  # each has its own seed
    assert main(["bench", "report", str(tmp_path / "report.json"), "-o", str(tmp_path / "report.md")]) == 0
    assert "counting" in (tmp_path / "report.md").read_text()
    assert main(["bench", "quality", *map(str, words), "--pictures", str(kept)]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_a_judge_scores_edits_by_question_and_task(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(number: int, body: dict[str, Any]) -> tuple[int, str]:
        text = body["messages"][1]["content"][-1]["text"]
        if "purple" in text:
            return 200, "I cannot say."
        return scores(instruction_following=10 if "red" in text else 0, consistency=10)

    Image.new("RGB", (64, 64), (200, 30, 30)).save(tmp_path / "a.png")
    edits = [("make it red", "color"), ("remove it", "remove"), ("make it purple", "color"), ("a red hat", "color")]
    lines = [json.dumps({"text": text, "image": "a.png", "task": task}) for text, task in edits]
    (tmp_path / "edits.jsonl").write_text("\n".join(lines))
    kept = tmp_path / "kept"
    with stub_judge(answer) as stub:
        words = [tiny_bundle, "--edits", tmp_path / "edits.jsonl", "--judge", stub.url, "--pictures", kept]
        report = _bench(capsys, *words, "-o", tmp_path / "report.json")
    assert (report["benchmark"], report["settings"]["judge"], report["settings"]["wording"]) == ("judge", "stub", "v1")
    found = report["results"]["editing"]
    assert (found["mean"], found["total"], found["unanswered"]) == (pytest.approx(2 / 3, abs=1e-4), 3, 1)
    assert {task: made["mean"] for task, made in found["tasks"].items()} == {"color": 1.0, "remove": 0.0}
    assert found["questions"]["consistency"] == {"mean": 1.0, "total": 3, "interval_95": [1.0, 1.0]}
    assert sorted(path.name for path in kept.iterdir())[:2] == ["00000-edited.png", "00000-source.png"]
    assert main(["bench", "report", str(tmp_path / "report.json"), "-o", str(tmp_path / "report.md")]) == 0
    shown = (tmp_path / "report.md").read_text()
    assert "instruction following" in shown
    assert "1 edits without a proper answer" in shown


def test_intervals_hold_the_mean_and_narrow_with_numbers() -> None:
    def width(count: int) -> float:
        made: Any = mean_record(list(np.linspace(0, 1, count)))
        low, high = made["interval_95"]
        assert low < made["mean"] < high
        return float(high - low)

    few, many = width(20), width(500)
    # The normal interval of uniform values: 2 · 1.96 · sqrt(1/12 / n).
    assert many == pytest.approx(2 * 1.96 * (1 / 12 / 500) ** 0.5, rel=0.1)
    assert few > 3 * many


def test_nonsense_is_counted_apart() -> None:
    opinions = Opinions()
    opinions.add("a", Opinion({"x": 0.4, "y": 0.9}))
    opinions.add("a", Opinion({}))
    record = opinions_record(opinions)
    assert (record["mean"], record["total"], record["unanswered"]) == (0.6, 1, 1)
    assert by_task([("counting", True), ("single_object", False)]).right == {"single_object": 0, "counting": 1}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--protocol", "geneval"], "needs --metadata"),
        (["--metadata", "m.jsonl"], "goes with --protocol geneval"),
        (["--edits", "e.jsonl"], "--edits and --judge go together"),
        (["--judge", "http://127.0.0.1:1/v1"], "--edits and --judge go together"),
        (["--pictures", "p"], "--pictures goes with"),
        (["--protocol", "geneval", "--metadata", "m.jsonl", "--samples", "0"], "0 samples"),
        (["--protocol", "geneval", "--metadata", "none.jsonl"], "cannot be read"),
        (["--protocol", "geneval", "--metadata", "{metadata}", "--detector", "{folder}"], "the detector"),
        (["--edits", "{metadata}", "--judge", "http://127.0.0.1:1/v1"], "has no image"),
        (["--edits", "{edits}", "--judge", "http://127.0.0.1:1/v1"], "cannot be reached"),
    ],
)
def test_what_is_wrong_is_said_before_any_picture(
    words: list[str], said: str, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "edits.jsonl").write_text('{"text": "make it red", "image": "a.png"}\n')
    names = {"metadata": _metadata(tmp_path), "folder": tmp_path, "edits": tmp_path / "edits.jsonl"}
    assert main(["bench", "quality", str(tiny_bundle), *(word.format(**names) for word in words)]) == 2
    assert said in capsys.readouterr().err
