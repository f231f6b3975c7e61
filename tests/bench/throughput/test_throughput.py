"""`bench throughput`: bursts of several pipelines, energy of each, and a report that fits the schema."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from unipic2_edge.bench.energy.metering import Energy
from unipic2_edge.bench.latency.point import Point
from unipic2_edge.bench.schema.document import report_schema
from unipic2_edge.bench.throughput.load import Burst, Load, burst
from unipic2_edge.bench.throughput.measure import Loaded
from unipic2_edge.bench.throughput.record import load_record, throughput_lines
from unipic2_edge.runtime.cli import main

POINT = Point("b", None, "generate", 64, 64, 2, 1.0)


class Fake:
    """A pipeline that takes its time, and notes what it was asked for and how many were asked at once."""

    lock, at_work, most = threading.Lock(), 0, 0

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def generate(self, prompts: list[str], **options: Any) -> None:
        assert len(options["seed"]) == len(prompts)
        self.prompts += prompts
        with Fake.lock:
            Fake.at_work += 1
            Fake.most = max(Fake.most, Fake.at_work)
        time.sleep(0.03)
        with Fake.lock:
            Fake.at_work -= 1


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_burst_is_made_by_all_pipelines_at_once_of_different_prompts(at_once: int) -> None:
    Fake.most = 0
    pipelines: Any = [Fake() for _ in range(at_once)]
    made = burst(pipelines, Load(POINT, 2, at_once), 3, 0)
    assert made.pictures == 2 * 3 * at_once and len(made.batches) == 3 * at_once
    assert Fake.most == at_once
    assert all(seconds >= 0.03 for seconds in made.batches) and made.seconds >= 0.09
    asked = [prompt for pipeline in pipelines for prompt in pipeline.prompts]
    assert len(set(asked)) == len(asked) == made.pictures
    assert made.per_second == pytest.approx(made.pictures / made.seconds)


def test_energy_is_told_a_picture_and_a_joule() -> None:
    bursts = [(Burst(4, 2.0, (1.0, 1.0)), Energy({"GPU 0": 60.0, "RAPL package-0": 20.0}, 2.0))] * 3
    record = load_record(Loaded(Load(POINT, 2, 1), 2, bursts))
    assert record["pictures_per_second"]["median"] == 2.0
    assert record["joules_a_picture"]["median"] == 20.0 and record["pictures_a_joule"]["median"] == 0.05
    assert record["joules_a_picture_by_meter"]["GPU 0"]["median"] == 15.0


def test_no_energy_is_said_and_not_made_up() -> None:
    record = load_record(Loaded(Load(POINT, 2, 1), 2, [(Burst(4, 2.0, (1.0,)), Energy({}, 2.0))]))
    assert "joules_a_picture" not in record
    energy = {"meters": [], "unreadable": ["RAPL: readable by root"], "idle_watts": {}, "failed": {"GPU 0": "lost"}}
    lines = throughput_lines([record, POINT.record() | {"refused": "too much"}], energy)
    assert "energy that cannot be read: RAPL: readable by root" in lines
    assert "GPU 0 stopped answering: lost" in lines and any("not run: too much" in line for line in lines)


@pytest.mark.slow
def test_batches_and_pipelines_of_a_tiny_bundle(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "throughput.json"
    words = [
        "throughput", str(tiny_bundle), "--batches", "1,2", "--concurrency", "1,2", "--steps", "1", "--rounds", "2",
        "--seconds", "0.01", "--task", "edit", "--device", "cpu", "--threads", "2", "-o", str(path),
    ]  # fmt: skip
    assert main(["bench", *words]) == 0, capsys.readouterr().err
    report = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.validate(report, report_schema())
    points = report["results"]["points"]
    assert [(point["batch"], point["concurrency"]) for point in points] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert all(point["pictures_per_second"]["count"] == 2 for point in points)
    energy = report["results"]["energy"]
    assert energy["meters"] or energy["unreadable"]
    assert main(["bench", "report", str(path)]) == 0
    assert "pictures a second (quartiles)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--batches", "0"], "measures nothing"), (["--rounds", "0"], "no bursts"), (["--batches", ""], "nothing")],
)
@pytest.mark.slow
def test_what_makes_no_sense_is_refused(
    tiny_bundle: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "throughput", str(tiny_bundle), *words]) == 2
    assert said in capsys.readouterr().err
