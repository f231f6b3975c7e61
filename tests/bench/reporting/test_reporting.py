"""Reports read back and shown: every kind that is stored here, pictures, refusals, and the index of the results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from unipic2_edge.bench.attacks import Attack
from unipic2_edge.bench.page import Note, Table
from unipic2_edge.bench.reporting.document import document
from unipic2_edge.bench.reporting.index import headline, index
from unipic2_edge.bench.reporting.markdown import markdown
from unipic2_edge.bench.reporting.overview import latency_bars, quality_points, throughput_series
from unipic2_edge.bench.reporting.stored import Stored, read_reports
from unipic2_edge.bench.serving import Crowd, Served, served_record
from unipic2_edge.bench.statistics import spread
from unipic2_edge.bench.words import FIGURES, Words, words_record
from unipic2_edge.runtime.cli import main
from unipic2_edge.runtime.errors import RequestError

RESULTS = Path(__file__).parents[3] / "bench" / "results"
MACHINE = {"processor": "a processor", "cores": 4, "libraries": {"numpy": "2.0"}}


def _stored(kind: str, results: dict[str, Any], path: Path = Path("there/one.json"), **settings: object) -> Stored:
    return Stored(path, kind, "2026-01-02T03:04:05Z", dict(settings), results, MACHINE)


def _write(report: Stored) -> Path:
    fields = {name: getattr(report, name) for name in ("benchmark", "when", "settings", "results", "machine")}
    report.path.write_text(json.dumps(fields), encoding="utf-8")
    return report.path


def test_every_stored_report_is_shown_with_its_figures() -> None:
    reports = read_reports([RESULTS])
    parts = {part.heading: part.contents for part in document(reports)}
    assert len(reports) >= 13
    for report in reports:
        assert any(isinstance(content, Table) and content.rows for content in parts[report.title])
    text = markdown("T", "lead", document(reports))
    compare = next(report for report in reports if report.benchmark == "compare" and "edit" in report.results)
    assert f"{compare.results['edit']['rows'][1]['speedup']['median']:.2f}×" in text
    assert "**generation**" in text  # a row that sums others up


def test_the_index_of_the_results_is_current() -> None:
    found = (RESULTS / "README.md").read_text(encoding="utf-8")
    assert found == index(RESULTS, read_reports([RESULTS])), "run: unipic2-edge bench report bench/results --index"


def test_the_index_links_what_is_there() -> None:
    links = re.findall(r"\]\(([^)]+\.json)\)", (RESULTS / "README.md").read_text(encoding="utf-8"))
    assert links and all((RESULTS / link).is_file() for link in links)


def _sample(value: float) -> dict[str, float]:
    names = ("p50", "p90", "p99", "mean", "stdev", "low", "high")
    return {name: 0.0 if name == "stdev" else value for name in names}


def _latency_point(bundle: str, steps: int, seconds: float) -> dict[str, Any]:
    stages = {"condition": 0.25, "denoise steps": seconds, "host": 0.0, "total": seconds + 0.25}
    return {
        "name": f"{bundle}, generate 64x64, {steps} steps", "bundle": bundle, "memory": None, "task": "generate",
        "size": "64x64", "steps": steps, "guidance": 1.0, "runs": 3, "first_run": 2.0,
        "stages": {name: _sample(value) for name, value in stages.items()},
        "outside_graphs": _sample(0.01), "processor_seconds": _sample(1.0), "to_first_step": _sample(0.5),
        "step": _sample(0.125),
    }  # fmt: skip


def _throughput_point(batch: int, at_once: int, rate: float) -> dict[str, Any]:
    return {
        "bundle": "b fp32",
        "memory": None,
        "task": "edit",
        "size": "64x64",
        "steps": 4,
        "guidance": 1.0,
        "batch": batch,
        "concurrency": at_once,
        "seconds_of_a_batch": _sample(1.0),
        "pictures_per_second": {"median": rate, "low": rate, "high": rate},
    }


IDENTITY = {"source": "s", "recipe": "fp32"}
LATENCY: dict[str, Any] = {
    "points": [
        _latency_point("b fp32", 4, 2.0),
        _latency_point("b fp32", 2, 1.0),
        {"name": "b fp32, edit 4096x4096", "bundle": "b fp32", "task": "edit", "refused": "too large"},
    ],
    "loads": [{"bundle": "b fp32", "memory": None, "total": 1.5, "graphs": {"denoiser": 1.25, "vae_decoder": 0.25}}],
    "bundles": {"b fp32": IDENTITY},
    "cold": {},
    "pictures": [],
}
THROUGHPUT: dict[str, Any] = {
    "points": [_throughput_point(1, 1, 3.0), _throughput_point(4, 1, 6.0), _throughput_point(4, 2, 5.0)],
    "energy": {"meters": [], "unreadable": ["no counter"], "idle_watts": {}, "failed": {}},
}


def test_stages_and_rates_are_found_for_the_plots() -> None:
    latency, throughput = _stored("latency", LATENCY), _stored("throughput", THROUGHPUT, threads=2)
    assert latency_bars([latency, throughput]) == {
        "generate, 4 steps": {"condition": 250.0, "denoise steps": 2000.0, "host": 0.0},
        "generate, 2 steps": {"condition": 250.0, "denoise steps": 1000.0, "host": 0.0},
    }
    found = throughput_series([latency, throughput], "pictures_per_second")
    assert found == {"edit, 1 at once": [(1.0, 3.0), (4.0, 6.0)], "edit, 2 at once": [(4.0, 5.0)]}
    assert throughput_series([throughput], "pictures_a_joule") == {}
    text = markdown("T", "l", document([latency, throughput]))
    assert "All of b fp32, 64x64." in text and "Not run: b fp32, edit 4096x4096: too large" in text
    assert "Energy that cannot be read: no counter." in text and "2.00×" in text and "not readable" in text
    assert "denoiser 1.25" in text
    assert headline(latency) == "b fp32: generate 2.25\u00a0s (p99 2.25\u00a0s)"
    assert headline(throughput) == "b fp32: 6.00 pictures a second at best, batch 4, 1 at once"


def test_quality_meets_the_latency_of_the_same_settings() -> None:
    def quality(steps: int, mean: float, **changes: object) -> Stored:
        settings = {**IDENTITY, "steps": steps, "guidance": 1.0, "size": "64x64", **changes}
        return _stored("quality", {"generation": {"mean": mean}}, **settings)

    latency = _stored("latency", LATENCY)
    found = quality_points([quality(4, 0.5), quality(2, 0.25), latency])
    assert found == {"generate, 4 steps": (2.25, 50.0), "generate, 2 steps": (1.25, 25.0)}
    assert list(quality_points([quality(4, 0.5), quality(2, 0.25, source="other"), latency])) == []


def test_quality_meets_latency_of_the_same_bundle_on_the_same_machine_only() -> None:
    same = {"bundle": "b", "source": "s", "recipe": "fp32", "steps": 4, "guidance": 1.0, "size": "64x64"}
    quality = _stored("quality", {"generation": {"mean": 0.5}}, **same)
    compare = {"generate": {"rows": [{"seconds": {"median": 0.25}, "source": "s", "recipe": "fp32"}]}}
    assert quality_points([quality, _stored("compare", compare, **same)]) == {"b fp32": (0.25, 50.0)}
    assert quality_points([quality, _stored("compare", compare, **{**same, "steps": 8})]) == {}


def test_what_bench_words_and_bench_serve_write_is_read() -> None:
    found = Words({name: [1.0] for name in FIGURES}, {name: [3.0] for name in FIGURES}, same_tokens=7, answers=8)
    words = _stored("words", json.loads(json.dumps(words_record(found))), bundle="b")
    one, half = spread([1.0]), spread([0.5])
    crowd = Crowd({"200": 9}, 0, {"p50": 0.1})
    load = Served(
        bare=spread([4.25]),
        single=one,
        batched=one,
        single_ratio=half,
        batched_ratio=one,
        processor_seconds={"bare": one},
        single_work=one,
        batched_work=spread([1.75]),
        same_bytes=True,
        crowd=crowd,
        growth_per_request=12.0,
        threads=(3, 3),
        files=(4, 4),
        slow_ratio=spread([1.5]),
        attacks={"300 MB": Attack("413", 1e6, 9e7)},
    )
    serve = _stored("serve", json.loads(json.dumps(served_record(load))), Path("there/serve.json"))
    text = markdown("T", "l", document([words, serve]))
    assert "first edit, whole | 3.00× (3.00–3.00) | 1.00\u00a0s | 3.00\u00a0s" in text
    assert "tokens after the first | 0.33× (0.33–0.33) | 1 a second | 3 a second" in text
    assert "4.25" in text and "1.50× (1.50–1.50) of that without them" in text
    assert "413, 1.0 MB more at the peak of 90" in text and "9 × 200" in text
    assert "7 of 8 answers equal" in headline(words)
    assert headline(serve).startswith("4.25 pictures a second bare; served one by one 0.50×")


def test_a_kind_that_nobody_knows_shows_all_its_figures() -> None:
    (part, _) = document([_stored("new", {"inner": {"value": 1.5, "fine": True}, "rows": [{"a": 1}]})])
    table = part.contents[0]
    assert isinstance(table, Table)
    assert list(map(list, table.rows)) == [["inner: value", "1.5"], ["inner: fine", "yes"]]
    assert isinstance(part.contents[-1], Note) and "2026-01-02" in part.contents[-1].text


def test_the_page_holds_plots_and_the_pictures_that_were_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (2, 2), (255, 0, 0)).save(tmp_path / "red.png")
    named = {**LATENCY, "pictures": [{"file": "red.png", "text": "a <red> square"}]}
    paths = [_write(_stored("latency", named, tmp_path / "latency.json", bundle="b"))]
    paths.append(_write(_stored("throughput", THROUGHPUT, tmp_path / "throughput.json", threads=2)))
    written = tmp_path / "report.html"
    assert main(["bench", "report", *map(str, paths), "-o", str(written)]) == 0, capsys.readouterr().err
    content = written.read_text(encoding="utf-8")
    assert content.count("<svg") == 2
    assert "a &lt;red&gt; square" in content and "data:image/png;base64," in content
    assert "http" not in content and "<script" not in content
    assert "var(--ink)" in content and "#010203" not in content
    ids = re.findall(r' id="([^"]+)"', content)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', content)) <= set(ids)


def test_markdown_goes_to_the_terminal_without_an_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _write(_stored("latency", LATENCY, tmp_path / "latency.json"))
    assert main(["bench", "report", str(path)]) == 0
    assert "| \u2003denoise steps | 2.00" in capsys.readouterr().out


@pytest.mark.parametrize("file", ["../secret.png", "missing.png", "words.txt"])
def test_a_picture_that_is_not_beside_its_report_is_refused(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "reports"
    folder.mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "secret.png")
    (folder / "words.txt").write_text("words", encoding="utf-8")
    with pytest.raises(RequestError, match="no picture beside it"):
        document([_stored("latency", {**LATENCY, "pictures": [file]}, folder / "r.json")])


def test_a_damaged_report_is_named() -> None:
    broken = _stored("compare", {"generate": {}})
    with pytest.raises(RequestError, match=r"one\.json is damaged"):
        document([broken])
    with pytest.raises(RequestError, match=r"one\.json is damaged"):
        headline(broken)


@pytest.mark.parametrize(
    ("content", "said"), [("[1]", "is no report"), ("{", "is not JSON"), ('{"benchmark": "x"}', "is no report")]
)
def test_other_files_are_no_reports(
    tmp_path: Path, content: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.json"
    path.write_text(content, encoding="utf-8")
    assert main(["bench", "report", str(path)]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_without_reports_and_an_index_of_a_file_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "report", str(tmp_path)]) == 2
    assert "there is no report" in capsys.readouterr().err
    path = _write(_stored("latency", LATENCY, tmp_path / "latency.json"))
    assert main(["bench", "report", str(path), "--index"]) == 2
    assert "an index is of one folder" in capsys.readouterr().err
    assert main(["bench", "report", str(path), "-o", str(tmp_path / "report.pdf")]) == 2
    assert "neither .html nor .md" in capsys.readouterr().err


def test_the_index_command_writes_beside_the_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "results" / "a-device"
    folder.mkdir(parents=True)
    _write(_stored("startup", {"help": {"median": 0.07}}, folder / "startup.json", bundle="b"))
    assert main(["bench", "report", str(tmp_path / "results"), "--index"]) == 0, capsys.readouterr().err
    text = (tmp_path / "results" / "README.md").read_text(encoding="utf-8")
    assert "## a-device" in text and "[startup: b](a-device/startup.json)" in text and "help 70\u00a0ms" in text
