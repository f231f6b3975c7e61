"""What bounds a stage, and what a card may take: held against calculations by hand."""

from __future__ import annotations

import pytest

from unipic2_edge.bench.roofline.calls import Call
from unipic2_edge.bench.roofline.limits import Limits
from unipic2_edge.bench.roofline.prediction import Efficiency, calibrate, predict, prediction_lines
from unipic2_edge.bench.roofline.roofline import Roofline, roofline_lines, roofline_record
from unipic2_edge.bench.roofline.stages import Stage, bound_of, formats_of, stages_of
from unipic2_edge.engines.cards import Card
from unipic2_edge.engines.targets import find_target
from unipic2_edge.export.work import Work
from unipic2_edge.runtime.errors import WorkError

DEVICE = Limits("device", "measured", {"float32": 100.0, "int8": 400.0}, 10.0)
HEAVY = Work(matrix={"float32": 500, "int8": 400}, other=7, weights=10, border=10, nodes=80)  # 6 s against 2 s
LIGHT = Work(matrix={"float32": 100}, other=0, weights=30, border=10, nodes=20)  # 1 s against 4 s


@pytest.mark.parametrize(
    ("work", "seconds", "by", "mfu", "mbu"),
    [
        (HEAVY, 10.0, "compute", 0.6, 0.2),
        (LIGHT, 8.0, "memory", 0.125, 0.5),
        (HEAVY, 30.0, "overhead", 0.2, 2 / 30),
    ],
)
def test_the_longer_of_both_bounds_a_stage_if_it_explains_its_time(
    work: Work, seconds: float, by: str, mfu: float, mbu: float
) -> None:
    bound = bound_of(work, seconds, DEVICE)
    assert (bound.by, bound.mfu, bound.mbu) == (by, pytest.approx(mfu), pytest.approx(mbu))
    assert bound.unfused_seconds == pytest.approx(work.most_bytes / 10)


def test_without_a_limit_of_the_format_memory_alone_is_judged() -> None:
    bound = bound_of(Work({"fp8": 10**9}, 0, 40, 0, 0), 5.0, DEVICE)
    assert bound.mfu is None
    assert bound.by == "memory"


class _Works(dict):  # type: ignore[type-arg]
    def __missing__(self, key: object) -> Work:
        return HEAVY


def test_calls_of_one_shape_are_one_stage_and_other_shapes_another() -> None:
    short, long = (("sequence", 1), ("total", 9)), (("sequence", 8), ("total", 8))
    runs = [
        [Call("language", long, 4.0), Call("language", short, 1.0), Call("language", short, 2.0), Call("vae", (), 9.0)],
        [Call("language", long, 6.0), Call("language", short, 3.0), Call("language", short, 4.0), Call("vae", (), 1.0)],
    ]
    found = stages_of(runs, _Works())  # type: ignore[arg-type]
    assert [(stage.name, stage.calls, stage.seconds) for stage in found] == [
        ("language (sequence 8, total 8)", 1, 5.0),
        ("language (sequence 1, total 9)", 2, 2.5),
        ("vae", 1, 5.0),
    ]


def test_formats_come_by_how_much_is_computed_in_them() -> None:
    stages = [Stage("a", "a", {}, 1, HEAVY, 1.0), Stage("b", "b", {}, 20, Work({"int8": 100}, 0, 0, 0, 0), 1.0)]
    assert formats_of(stages) == ["int8", "float32"]


def _roofline() -> Roofline:
    stages = [Stage("denoiser", "denoiser", {"batch": 2}, 2, HEAVY, 10.0), Stage("vae", "vae", {}, 1, LIGHT, 8.0)]
    return Roofline(stages, 30.0, DEVICE, None)


def test_the_host_has_what_is_left() -> None:
    found = _roofline()
    assert found.host_seconds == 2.0
    record = roofline_record(found)
    assert [stage["by"] for stage in record["stages"]] == ["compute", "memory"]  # type: ignore[attr-defined]
    lines = "\n".join(roofline_lines(found))
    assert "60.0%" in lines and "host" in lines and "66.7%" in lines


def test_without_any_limit_there_is_no_roofline() -> None:
    with pytest.raises(WorkError, match="unknown"):
        _ = Roofline([], 1.0, None, None).limits


def test_efficiency_is_the_limits_time_over_the_measured_time() -> None:
    stages = roofline_record(_roofline())["stages"]
    found = calibrate(stages, "here")  # type: ignore[arg-type]
    assert found.graphs == {"denoiser": pytest.approx(0.6), "vae": pytest.approx(0.5)}
    assert found.overall == pytest.approx((2 * 6 + 4) / (2 * 10 + 8))


CARD = Card("X", 1, 10e-9, 100e-12, None, None, 400e-12, None, "paper")  # the same limits as DEVICE
PRECISIONS = {"denoiser": "float32", "vae": "float32"}


def test_a_prediction_is_the_sum_of_its_lines() -> None:
    stages = _roofline().stages
    efficiency = Efficiency(0.25, "here", {"denoiser": 0.5})
    found = predict(find_target("rtx-40"), CARD, stages, PRECISIONS, efficiency)
    assert found.least == pytest.approx(2 * 6 + 4)
    assert found.seconds == pytest.approx(2 * 6 / 0.5 + 4 / 0.25)
    lines = prediction_lines(found)
    assert "predicted 40 s" in lines[0] and "paper" in lines[0]
    assert "2 × max(6 s compute, 2 s memory) / 0.5 = 24 s" in lines[1]


def test_the_device_that_was_measured_is_predicted_as_it_was() -> None:
    found = _roofline()
    efficiency = calibrate(roofline_record(found)["stages"], "here")  # type: ignore[arg-type]
    predicted = predict(find_target("rtx-40"), CARD, found.stages, PRECISIONS, efficiency)
    assert predicted.seconds == pytest.approx(found.seconds - found.host_seconds)


@pytest.mark.parametrize(
    ("target", "precision", "work", "reason"),
    [
        ("rtx-30", "bfloat16", Work({"fp8": 1}, 0, 1, 1, 1), "needs fp8, which rtx-30 does not run"),
        ("rtx-20", "bfloat16", Work({"bfloat16": 1}, 0, 1, 1, 1), "needs bfloat16"),
        ("rtx-40", "bfloat16", Work({"fp8": 1}, 0, 1, 1, 1), "no source gives this card's rate in fp8"),
        ("rtx-40", "float32", Work({"float32": 1}, 0, 2 * 10**9, 1, 1), "do not fit"),
    ],
)
def test_what_cannot_run_is_not_predicted(target: str, precision: str, work: Work, reason: str) -> None:
    stage = Stage("denoiser", "denoiser", {}, 1, work, None)
    found = predict(find_target(target), CARD, [stage], {"denoiser": precision}, Efficiency(1.0, "x"))
    assert found.seconds is None
    assert reason in prediction_lines(found)[0]
