"""A card's steps on a card that is not there: real compiles, engines of the stand-in, memory, what NVML is asked."""

from __future__ import annotations

import shutil
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from unipic2_edge.bench.acceptance import environment, large_step, memory, ways
from unipic2_edge.bench.acceptance.agreement import compare_with_pytorch
from unipic2_edge.bench.acceptance.bundles import build_small, check_room
from unipic2_edge.bench.acceptance.large_model import build_large, export_large, large_bundle, make_checkpoint
from unipic2_edge.bench.acceptance.step import Job, Setting, SkippedError, Step
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.device import Device
from unipic2_edge.runtime.platforms import this_platform

from ...runtime.fake_card import CARD, Gpu, install

LIMITS = {"batch": 2, "steps": 50, "tokens": 32, "context": 33, "height": 64, "width": 64, "h": 16, "w": 16}


@pytest.fixture
def setting(tmp_path: Path, tiny_checkpoint: Path) -> Setting:
    return Setting(
        device="gpu:0",
        capability="8.9",
        work=str(tmp_path / "work"),
        small=str(tiny_checkpoint),
        model="tiny-kontext",
        workloads=(("generate", 64, 64), ("edit", 64, 64)),
        peers=(),
        seconds=0.1,
        threads=1,
    )


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[[Device], None]:
    """Puts a card into the machine."""

    def insert(device: Device) -> None:
        for module in (ways, large_step, memory):
            monkeypatch.setattr(module, "find_gpus", lambda: (device,))

    insert(CARD)
    return insert


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, card: Callable[[Device], None]) -> Gpu:
    """The stand-in for TensorRT-RTX on that card."""
    made = install(monkeypatch)
    made.limits = LIMITS
    return made


@pytest.fixture
def small(setting: Setting, tiny_bundle: Path) -> Bundle:
    """The small model's bundle where its export step leaves it."""
    return Bundle(Path(shutil.copytree(tiny_bundle, setting.folder / "small" / "fp32")))


def _job(setting: Setting, **arguments: Any) -> Job:
    return Job(setting=setting, step=Step(name="a/step", title="", run="", arguments=arguments))


@pytest.mark.slow
def test_pictures_of_the_stand_in_agree_with_pytorch(setting: Setting, gpu: Gpu, small: Bundle) -> None:
    gpu.build(small)
    made = compare_with_pytorch(
        _job(msgspec.structs.replace(setting, prompts=1), backend="tensorrt_rtx", recipe="fp32")
    )
    assert made.problem is None
    assert [row["task"] for row in made.results["rows"]] == ["generate", "edit"]
    assert all(row["latents_error"] < 1e-3 for row in made.results["rows"])
    assert made.results["same_seed_same_bytes"] is True
    assert max(context.executed for context in gpu.library.contexts) >= 4 * 28  # the denoiser's: it did run there


@pytest.mark.slow
def test_each_engines_memory_is_held_against_its_plan(setting: Setting, gpu: Gpu, small: Bundle) -> None:
    gpu.build(small)
    job = _job(setting, backend="tensorrt_rtx", recipe="fp32", model="small")
    made = memory.measure_memory(job)
    rows = {row["graph"]: row for row in made.results["rows"]}
    assert made.problem is None and "denoiser" in rows
    # Buffers twice (pinned memory is the stand-in's device memory too), and 64 bytes of arena for each number.
    denoiser = rows["denoiser"]
    assert denoiser["measured_bytes"] >= 2 * denoiser["border_bytes"]
    assert denoiser["predicted_bytes"] == 1000 + 10 + denoiser["border_bytes"]
    assert denoiser["returned_bytes"] == denoiser["measured_bytes"]
    greedy = gpu.cuda.cudaMalloc
    gpu.cuda.cudaMalloc = lambda size: greedy(size + 80 * 2**20)  # type: ignore[method-assign]
    over = memory.measure_memory(job)
    assert over.problem is not None and "takes more than was predicted" in over.problem


@pytest.mark.slow
def test_without_engines_of_the_backend_a_step_is_skipped(setting: Setting, gpu: Gpu, small: Bundle) -> None:
    with pytest.raises(SkippedError, match=r"no engine of .* for a GPU"):
        memory.measure_memory(_job(setting, backend="tensorrt_rtx", recipe="fp32", model="small"))
    gpu.build(small)
    with pytest.raises(SkippedError, match=r"no engine of .* for a GPU"):  # those are another backend's
        memory.measure_memory(_job(setting, backend="tensorrt", recipe="fp32", model="small"))


@pytest.mark.slow
def test_a_card_that_lacks_a_format_is_no_failure(
    setting: Setting, card: Callable[[Device], None], small: Bundle
) -> None:
    card(replace(CARD, capability="7.5"))
    turing = msgspec.structs.replace(setting, capability="7.5")
    with pytest.raises(SkippedError, match=r"unsupported: .*float32, which rtx-20"):
        build_small(_job(turing, backend="tensorrt_rtx", recipe="fp32"))
    with pytest.raises(SkippedError, match=r"unsupported GPU: tensorrt_rtx does not serve compute capability 8.7"):
        build_small(_job(msgspec.structs.replace(setting, capability="8.7"), backend="tensorrt_rtx", recipe="fp32"))


@pytest.mark.slow
def test_the_large_denoiser_is_made_and_really_compiled(setting: Setting, card: Callable[[Device], None]) -> None:
    """With the real compiler, which needs no card; fp8 with scales that noise called for."""
    weights = make_checkpoint(_job(setting))
    assert weights.results["dtype"] == "bfloat16"
    shown = {"denoiser/weights": weights.results}
    for recipe, formats in (("bf16", ()), ("fp8", ("fp8",))):
        job = msgspec.structs.replace(_job(setting, recipe=recipe), found=shown)
        exported = export_large(job)
        part = Bundle(large_bundle(setting, recipe)).manifest.components["denoiser"]
        assert (part.precision, part.formats) == ("bfloat16", formats)
        work = exported.results["matrix_operations"]
        assert set(work) == {"generate 64x64", "edit 64x64"}
        assert sum(work["edit 64x64"].values()) > sum(work["generate 64x64"].values())
        assert ("fp8" in work["edit 64x64"]) == (recipe == "fp8")
        built = build_large(_job(setting, backend="tensorrt_rtx", recipe=recipe))
        assert built.results["target"] == "rtx-40"
        assert {row["graph"] for row in built.results["engines"]} == {"denoiser", "modulation"}
    with pytest.raises(SkippedError, match=r"unsupported GPU: tensorrt_rtx does not serve"):
        build_large(_job(msgspec.structs.replace(setting, capability="8.7"), backend="tensorrt_rtx", recipe="bf16"))


@pytest.mark.slow
def test_a_step_runs_through_the_stand_in_and_knows_its_limits(setting: Setting, gpu: Gpu) -> None:
    make_checkpoint(_job(setting))
    exported = export_large(_job(setting, recipe="fp32"))
    bundle = Bundle(large_bundle(setting, "fp32"))
    gpu.build(bundle)
    limits = {"device": "a card", "source": "measured", "rates": {"float32": 1e15}, "bandwidth": 1e12}
    job = _job(setting, task="edit", width=64, height=64, counted="fp32", backend="tensorrt_rtx", recipe="fp32")
    job = msgspec.structs.replace(job, found={"e": exported.results, "l": {"measured": limits, "sheet": None}})
    made = large_step.time_step(job)
    assert made.problem is None
    (row,) = made.results["rows"]
    assert row["name"] == "engine" and row["seconds"]["count"] >= 5
    least = exported.results["matrix_operations"]["edit 64x64"]["float32"] / 1e15
    assert row["mfu_measured"] == pytest.approx(least / row["seconds"]["median"])
    assert made.results["modulation_share_seconds"] > 0


@pytest.mark.slow
def test_a_card_too_small_for_both_is_said_before_anything_is_loaded(
    setting: Setting, card: Callable[[Device], None]
) -> None:
    make_checkpoint(_job(setting))
    card(replace(CARD, free_bytes=10_000))
    with pytest.raises(SkippedError, match=r"too little memory: the contestants take .* fewer --layers take less"):
        large_step.time_step(_job(setting, task="edit", width=64, height=64, counted="bf16"))
    card(replace(CARD, index=1))
    with pytest.raises(SkippedError, match=r"too little disk|too little memory"):
        check_room(setting.folder, 10**18, "making the weights")


def test_nvml_is_asked_for_everything_and_may_refuse(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    def refuse(handle: object) -> None:
        raise NVMLError("Not Supported")

    nvml: Any = types.ModuleType("pynvml")
    nvml.NVMLError, nvml.NVML_CLOCK_SM, nvml.NVML_CLOCK_MEM, nvml.NVML_TEMPERATURE_GPU = NVMLError, 1, 2, 0
    nvml.nvmlInit = nvml.nvmlShutdown = lambda: None
    nvml.nvmlDeviceGetCount = lambda: 1
    nvml.nvmlDeviceGetHandleByIndex = lambda index: index
    nvml.nvmlDeviceGetName = lambda handle: b"NVIDIA GeForce RTX 4090"
    nvml.nvmlSystemGetDriverVersion = lambda: "580.65"
    nvml.nvmlSystemGetCudaDriverVersion_v2 = lambda: 13010
    nvml.nvmlDeviceGetCudaComputeCapability = lambda handle: (8, 9)
    nvml.nvmlDeviceGetClockInfo = lambda handle, kind: 1000 * kind
    nvml.nvmlDeviceGetMaxClockInfo = lambda handle, kind: 2000 * kind
    nvml.nvmlDeviceGetEnforcedPowerLimit = lambda handle: 450_000
    nvml.nvmlDeviceGetMigMode = refuse  # and the default power limit is not known to this version at all
    nvml.nvmlDeviceGetMemoryInfo = lambda handle: types.SimpleNamespace(total=24, free=20)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    found = environment.examine(_job(setting)).results["gpu"]
    assert found["name"] == "NVIDIA GeForce RTX 4090" and found["cuda_of_the_driver"] == "13.1"
    assert (found["sm_clock_mhz"], found["memory_clock_max_mhz"]) == (1000, 4000)
    assert (found["power_limit_w"], found["free_memory_bytes"]) == (450, 20)
    assert "mig" not in found and "power_limit_default_w" not in found
    assert "pytorch" in found


def test_the_card_of_these_tests_is_of_this_platform() -> None:
    assert CARD.platform == this_platform()
