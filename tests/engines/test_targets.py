"""The table of targets and the commands that show it and build for it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from unipic2_edge.engines.targets import TARGETS, Target, find_target, target_of_capability, targets_of
from unipic2_edge.engines.targets_page import card_matrix, support_matrix, targets_table
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.cli import main
from unipic2_edge.runtime.device import Device
from unipic2_edge.runtime.errors import RequestError
from unipic2_edge.runtime.platforms import PLATFORMS


def _document(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    content: dict[str, object] = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    return content


def test_every_target_says_what_serves_it_and_where_that_is_from() -> None:
    for name, target in TARGETS.items():
        assert target.name == name
        assert target.source
        assert set(target.backends) <= {"onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"}
        assert set(target.platforms) <= set(PLATFORMS)
        for backend in target.backends:
            assert set(target.precisions_of(backend)) <= set(target.precisions)
        assert target.capability is None or re.fullmatch(r"\d+\.\d", target.capability)


def test_the_issues_targets_are_all_there() -> None:
    asked = ["rtx-20", "rtx-30", "rtx-40", "rtx-50", "dgx-spark", "jetson-orin", "jetson-thor", "a100", "h100", "cpu"]
    assert set(asked) == set(TARGETS)


def test_an_unknown_target_names_the_known_ones() -> None:
    with pytest.raises(RequestError) as refused:
        find_target("rtx-9999")
    assert "rtx-9999" in refused.value.problem
    assert "cpu" in refused.value.mend


def test_names_with_commas_give_each_target_once() -> None:
    assert [target.name for target in targets_of("rtx-40, rtx-30,rtx-40")] == ["rtx-40", "rtx-30"]


def test_a_target_is_found_by_its_compute_capability() -> None:
    for target in TARGETS.values():
        if target.capability is not None:
            assert target_of_capability(target.capability) is target
    assert target_of_capability("6.1") is None


def _gpu(capability: str) -> Device:
    return Device("gpu", 0, "a card", capability, None, None, None, "linux-x86_64")


def test_auto_is_what_this_machine_is() -> None:
    assert [target.name for target in targets_of("auto", lambda: ())] == ["cpu"]
    assert [target.name for target in targets_of("auto,rtx-40", lambda: (_gpu("8.9"),))] == ["rtx-40"]
    assert [target.name for target in targets_of("auto", lambda: (_gpu("8.7"), _gpu("8.9")))] == ["jetson-orin"]
    with pytest.raises(RequestError, match=r"no target for a card, compute capability 6\.1"):
        targets_of("auto", lambda: (_gpu("6.1"),))


def test_targets_lists_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "--json"]) == 0
    document = _document(capsys)
    assert document["ok"] is True
    assert [target["name"] for target in document["targets"]] == list(TARGETS)  # type: ignore[attr-defined]
    assert main(["targets"]) == 0
    shown = capsys.readouterr().out
    for name in TARGETS:
        assert name in shown


def test_build_reports_engines_and_then_the_hit(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    for cached in (False, True):
        assert main(["build", str(bundle.folder), "--target", "cpu", "--json"]) == 0
        made = _document(capsys)["engines"]
        assert isinstance(made, list)
        assert [engine["cached"] for engine in made] == [cached, cached]
        assert [engine["graph"] for engine in made] == ["line", "picture"]
        for engine in made:
            assert set(engine["measured_seconds"]) == {"onnxruntime", "openvino"}
            assert engine["backend"] in engine["measured_seconds"]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_build_takes_the_backend_that_is_asked_for(
    bundle: Bundle, capsys: pytest.CaptureFixture[str], backend: str
) -> None:
    assert main(["build", str(bundle.folder), "--target", "cpu", "--backend", backend, "--json"]) == 0
    made = _document(capsys)["engines"]
    assert isinstance(made, list)
    assert [(engine["backend"], engine["measured_seconds"]) for engine in made] == [(backend, {})] * 2


@pytest.mark.parametrize(
    ("target", "through"), [("cpu", ["onnxruntime", "openvino"]), ("rtx-30,rtx-40", ["tensorrt_rtx"])]
)
def test_a_dry_run_says_what_it_would_take_and_builds_nothing(
    bundle: Bundle, capsys: pytest.CaptureFixture[str], target: str, through: list[str]
) -> None:
    assert main(["build", str(bundle.folder), "--target", target, "--dry-run", "--json"]) == 0
    engines = _document(capsys)["engines"]
    assert isinstance(engines, list)
    assert [(engine["graph"], engine["backend"]) for engine in engines] == [
        (graph, backend) for graph in ("line", "picture") for backend in through
    ]
    for engine in engines:
        assert engine["targets"] == target.split(",")
        assert engine["build_seconds"] > 0
        assert engine["build_peak_bytes"] > 100e6
    assert not (bundle.folder / "engines").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "rtx-9999"], "there is no target 'rtx-9999'"),
        (["--target", "cpu,"], "there is no target ''"),
        (["--target", "cpu", "--threads", "0"], "0 threads cannot work"),
        (["--target", "cpu", "--threads", "many"], "invalid int value"),
        (["--target", "rtx-40", "--sizes", "500x500"], "500x500 is no size"),
        (["--target", "rtx-40", "--sizes", "big"], "'big' is no size"),
        (["--target", "rtx-40", "--sizes", "32x32", "--max", "32x32"], "--sizes stands for"),
        (["--target", "rtx-40", "--min", "32x32", "--max", "16x16"], "above the largest"),
        (["--target", "rtx-40", "--tasks", "dream"], "there is no task 'dream'"),
        (["--target", "rtx-40", "--images", "0"], "0 pictures at once"),
        (["--target", "rtx-40", "--platform", "solaris"], "there is no platform 'solaris'"),
        (["--target", "rtx-40", "--platform", "linux-aarch64"], "does not run on linux-aarch64"),
        (["--target", "rtx-40", "--backend", "onnxruntime"], "onnxruntime does not serve rtx-40"),
        (["--target", "rtx-40", "--backend", "openvino"], "openvino does not serve rtx-40"),
        (["--target", "jetson-orin"], "jetson-orin"),
        ([], "--target"),
    ],
)
def test_wrong_requests_are_refused_in_two_lines_and_change_nothing(
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


@pytest.mark.parametrize("table", [support_matrix, card_matrix])
def test_the_readme_shows_this_very_table(table: Callable[[list[Target]], list[str]]) -> None:
    readme = (Path(__file__).parents[2] / "engines" / "README.md").read_text(encoding="utf-8")
    assert "\n".join(table(list(TARGETS.values()))) in readme


def test_the_table_fits_a_terminal_and_keeps_every_card_on_a_line() -> None:
    lines = targets_table(list(TARGETS.values()))
    assert max(map(len, lines)) <= 110
    for target in TARGETS.values():
        for card in target.cards:
            assert any(f"{card.name} {card.memory:g}GB" in line for line in lines), card.name
