"""The table of steps, for every kind of card: each entry exists, and stands after what it builds on."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from unipic2_edge.bench.acceptance.commands import device_folder, slug
from unipic2_edge.bench.acceptance.goals import goals
from unipic2_edge.bench.acceptance.step import Record, Setting, SkippedError
from unipic2_edge.bench.acceptance.table import GROUPS, steps_of
from unipic2_edge.bench.acceptance.ways import target_for
from unipic2_edge.bench.statistics import spread
from unipic2_edge.runtime.cli import main
from unipic2_edge.runtime.device import Device

LOADS = (("generate", 512, 512), ("edit", 512, 512), ("generate", 1024, 1024), ("edit", 1024, 1024))


def _setting(capability: str | None) -> Setting:
    return Setting(
        device="cpu" if capability is None else "gpu:0",
        capability=capability,
        work="work",
        model="unipic2-sd3.5m-kontext",
        workloads=LOADS,
        words="somewhere",
    )


@pytest.mark.parametrize("capability", [None, "7.5", "8.9", "9.0", "12.0"])
def test_every_entry_is_there_and_after_what_it_builds_on(capability: str | None) -> None:
    steps, before = steps_of(_setting(capability)), set[str]()
    for step in steps:
        module, _, function = step.run.partition(":")
        assert callable(getattr(import_module(module), function)), step.name
        assert {*step.after, *step.uses} <= before, step.name
        assert step.name not in before and step.group in GROUPS
        before.add(step.name)
    assert len({step.name.replace("/", "-") for step in steps}) == len(steps)  # names of their logs


def test_a_card_is_tried_with_everything() -> None:
    names = [step.name for step in steps_of(_setting("8.9"))]
    for name in (
        "correctness/agree/tensorrt_rtx-fp32",
        "correctness/agree/tensorrt-bf16",
        "correctness/agree/cuda-fp32",
        "correctness/agree/onnxruntime-fp32",
        "correctness/tests",
        "denoiser/step/pytorch/edit-1024x1024",
        "denoiser/step/tensorrt_rtx-fp8/generate-512x512",
        "denoiser/step/tensorrt_rtx-nvfp4/edit-1024x1024",
        "denoiser/step/cuda-fp16/generate-1024x1024",
        "pictures/made/tensorrt_rtx-bf16",
        "pictures/answers/tensorrt_rtx-bf16",
        "memory/large/tensorrt_rtx-int4",
    ):
        assert name in names
    older = [step.name for step in steps_of(_setting("7.5"))]
    assert "denoiser/step/tensorrt_rtx-fp16/edit-512x512" in older  # Turing has no bfloat16
    assert not any("bf16" in name for name in older)


def test_what_a_backend_compiles_for() -> None:
    assert target_for(_setting("8.9"), "tensorrt_rtx").name == "rtx-40"
    assert target_for(_setting("9.0"), "tensorrt").name == "h100"
    assert target_for(_setting("9.0"), "tensorrt_rtx").name == "a100"  # said to run there: tried, and recorded
    for capability, backend in (("8.7", "tensorrt_rtx"), ("7.0", "tensorrt")):
        with pytest.raises(SkippedError, match=f"unsupported GPU: {backend} does not serve"):
            target_for(_setting(capability), backend)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA H100 80GB HBM3", "h100-80gb-hbm3"),
        ("NVIDIA RTX PRO 6000 Blackwell", "rtx-pro-6000-blackwell"),
        ("NVIDIA Jetson AGX Orin Developer Kit", "jetson-agx-orin-developer-kit"),
        ("NVIDIA", "device"),
    ],
)
def test_a_device_has_a_folder(name: str, folder: str) -> None:
    assert slug(name) == folder
    assert device_folder(Device("gpu", 0, name, "8.9", 1, 1, None, "linux-x86_64")) == folder


def _measured(way: str, recipe: str, eager: float, mfu: float | None) -> Record:
    ratio = spread([eager]).to_dict()
    row = {"name": "engine", "times_eager": ratio, "times_compile": spread([0.9]).to_dict(), "mfu_measured": mfu}
    results = {"way": way, "recipe": recipe, "workload": "edit 512x512", "rows": [row]}
    return Record(
        name=f"denoiser/step/{way}/edit-512x512", title="", status="passed", seconds=1.0, results=results
    )  # fmt: skip


def test_goals_are_met_or_missed_with_their_figures() -> None:
    records = {
        record.name: record
        for record in (
            _measured("tensorrt_rtx-bf16", "bf16", 2.5, 0.61),
            _measured("tensorrt_rtx-fp8", "fp8", 2.9, None),
            _measured("tensorrt_rtx-int8", "int8", 3.0, 0.5),  # no goal is written for it
            _measured("cuda-fp16", "fp16", 3.0, 0.9),  # ONNX Runtime is a peer
        )
    }
    found = goals(records, {"device": "gpu:0", "layers": None})
    assert [(goal.way, goal.wanted, goal.found, goal.met) for goal in found] == [
        ("tensorrt_rtx-bf16", 2.0, 2.5, True),
        ("tensorrt_rtx-bf16", 1.0, 0.9, False),
        ("tensorrt_rtx-bf16", 0.6, 0.61, True),
        ("tensorrt_rtx-fp8", 3.0, 2.9, False),
        ("tensorrt_rtx-fp8", 0.5, None, None),
    ]
    assert {goal.met for goal in goals(records, {"device": "gpu:0", "layers": 6})} == {None}
    assert goals(records, {"device": "cpu", "layers": None}) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", "gpu:7"], "no GPU 7"),
        (["--device", "npu"], "no device 'npu'"),
        (["--only", "correctnes"], "no group 'correctnes'"),
        (["--peers", "compile"], "--peers compile cannot be"),
        (["--layers", "0"], "--layers 0"),
        (["--layers", "3"], "has 2 layers, not 3"),
        (["--model", "gpt"], "no model 'gpt'"),
        (["--sizes", "64"], "64"),
        (["--small", "{none}"], "none"),
        (["--limit", "-1"], "--limit -1"),
    ],
)
def test_wrong_requests_are_refused_in_two_lines(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device = [] if "--device" in words else ["--device", "cpu"]
    arguments = [word.format(none=tmp_path / "none") for word in words]
    assert main(["bench", "accept", "-o", str(tmp_path / "out"), *device, *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert said in error[0] and len(error) == 2
    assert not (tmp_path / "out").exists()
