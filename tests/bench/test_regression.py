"""Stored reports compared: what is slower for sure, what is noise, and what does not compare."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unipic2_edge.bench.regression import changes, read_tolerance, slower, slower_of_two
from unipic2_edge.bench.statistics import percentiles, spread
from unipic2_edge.runtime.cli import main
from unipic2_edge.runtime.errors import RequestError

MACHINE = {"processor": "p", "cores": 2}


def _point(scale: float, noise: float, bundle: str = "b", seed: int = 0, count: int = 30) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    samples = (scale * (1 + noise * rng.standard_normal(count))).tolist()
    stages = {"total": percentiles(samples).to_dict()}
    return {"bundle": bundle, "task": "generate", "size": "64x64", "steps": 4, "stages": stages, "samples": samples}


def _report(*points: dict[str, Any], kind: str = "latency") -> dict[str, Any]:
    return {
        "benchmark": kind,
        "settings": {"threads": 1},
        "machine": MACHINE,
        "results": {"points": list(points), "cold": {}},
    }


def test_twice_as_long_is_found_and_named() -> None:
    (found,) = slower(_report(_point(1.0, 0.02)), _report(_point(2.0, 0.02, seed=1)), 0.05)
    assert found.what == "b: generate, size 64x64, steps 4"
    assert found.ratio == pytest.approx(2, rel=0.03) and 1.9 < found.least < found.ratio < found.most
    assert "2.0" in found.line() and "as long" in found.line()


def test_faster_and_the_same_are_not_slower() -> None:
    before = _report(_point(1.0, 0.02))
    assert slower(before, copy.deepcopy(before), 0.0) == []
    assert slower(before, _report(_point(0.5, 0.02, seed=1)), 0.0) == []


def test_a_tolerance_lets_pass_what_is_within_it() -> None:
    before, after = _report(_point(1.0, 0.001)), _report(_point(1.08, 0.001, seed=1))
    assert slower(before, after, 0.10) == []
    assert len(slower(before, after, 0.05)) == 1


def test_noise_alone_seldom_fails_and_a_real_change_seldom_hides() -> None:
    false = sum(
        bool(slower(_report(_point(1.0, 0.2, seed=i)), _report(_point(1.0, 0.2, seed=1000 + i)), 0.0))
        for i in range(200)
    )
    found = sum(
        bool(slower(_report(_point(1.0, 0.1, seed=i)), _report(_point(1.3, 0.1, seed=1000 + i)), 0.05))
        for i in range(100)
    )
    assert false <= 14  # one-sided: 2.5 % expected
    assert found >= 90


def test_rates_are_slower_when_they_fall() -> None:
    def report(rate: float) -> dict[str, Any]:
        made = spread([rate * 0.99, rate, rate * 1.01])
        point = {"bundle": "b", "task": "generate", "batch": 4, "concurrency": 1}
        return _report({**point, "pictures_per_second": made.to_dict()}, kind="throughput")

    (found,) = slower(report(10.0), report(5.0), 0.05)
    assert found.ratio == pytest.approx(2.0) and found.unit == "1/s"
    assert slower(report(5.0), report(10.0), 0.05) == []


def test_two_bundles_of_one_run_are_compared_pair_by_pair() -> None:
    moods = np.exp(np.random.default_rng(0).standard_normal(30))  # a machine that others use, too
    fast, slow = _point(1.0, 0.0), _point(1.0, 0.0, "other")
    fast["samples"], slow["samples"] = moods.tolist(), (1.1 * moods).tolist()
    (found,) = slower_of_two(_report(fast, slow), "b", "other", 0.05)
    assert found.ratio == pytest.approx(1.1) and found.least == pytest.approx(1.1)
    assert slower_of_two(_report(fast, slow), "other", "b", 0.05) == []
    with pytest.raises(RequestError, match="share no point"):
        slower_of_two(_report(fast), "b", "other", 0.05)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"benchmark": "throughput"}, "do not compare"),
        ({"machine": {"processor": "q", "cores": 2}}, "differ in processor"),
        ({"settings": {"threads": 2}}, "differ in threads"),
        ({"results": {"points": [], "cold": {}}}, "no figure in common"),
        ({"results": {}}, "damaged"),
    ],
)
def test_what_does_not_compare_is_refused(change: dict[str, Any], said: str) -> None:
    before = _report(_point(1.0, 0.1))
    with pytest.raises(RequestError, match=said):
        changes(before, {**before, **change})


def test_kinds_without_speeds_are_refused() -> None:
    with pytest.raises(RequestError, match="no speeds to compare"):
        changes(_report(kind="memory"), _report(kind="memory"))


def test_tolerances_are_read() -> None:
    assert (read_tolerance("5%"), read_tolerance("0.2"), read_tolerance("0%")) == (0.05, 0.2, 0.0)
    for text in ("", "five", "-1%", "200%", "nan"):
        with pytest.raises(RequestError, match="no tolerance"):
            read_tolerance(text)


def test_two_comparisons_are_compared_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def written(name: str, median: float) -> str:
        sample = {"median": median, "low": 0.99 * median, "high": 1.01 * median, "count": 50}
        rows = [{"name": "eager", "seconds": sample}, {"name": "sdcpp", "seconds": None, "reason": "not here"}]
        fields = {"benchmark": "compare", "when": "now", "settings": {"threads": 2}, "machine": {"processor": "one"}}
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({**fields, "results": {"generate": {"rows": rows}}}), encoding="utf-8")
        return str(path)

    before, after = written("before", 1.0), written("after", 1.2)
    assert main(["bench", "compare", before, after]) == 0
    assert "eager: generate: 1 s → 1.2 s, 1.200× as long" in capsys.readouterr().out
    assert main(["bench", "compare", before, after, "--fail-if-slower", "5%"]) == 1
    assert "is slower than" in capsys.readouterr().err
    assert main(["bench", "compare", before, after, "--fail-if-slower", "25%"]) == 0
    assert main(["bench", "compare", after, before, "--fail-if-slower", "5%"]) == 0
    assert main(["bench", "compare", before, before, "--fail-if-slower", "5%"]) == 0
    assert main(["bench", "compare", before, after, "--fail-if-slower", "fast"]) == 2
