"""The picker: over a matrix of engines and devices, the right one or a reason with its mend."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from unipic2_edge.runtime.device import Device
from unipic2_edge.runtime.engine import CompiledFrom, Engine, EngineSpec
from unipic2_edge.runtime.picker import Choice, Library, Refusal, pick

ORIGIN = CompiledFrom(graph="a" * 64, weights="b" * 64)
RTX, TRT = "1.7.1.116", "10.13.3"
LIBRARIES = {"tensorrt_rtx": Library(RTX), "tensorrt": Library(TRT)}


def _engine(**changes: object) -> Engine:
    spec = EngineSpec(
        graph="denoiser",
        compiled_from=ORIGIN,
        precision="bfloat16",
        backend="tensorrt_rtx",
        backend_version=RTX,
        capabilities=("8.6", "8.9", "12.0"),
        platform="linux-x86_64",
        profile={},
        settings={},
    )
    outer = {name: changes.pop(name) for name in ("verified_ns",) if name in changes}
    spec = msgspec.structs.replace(spec, **changes)  # type: ignore[arg-type]
    return Engine(spec=spec, file=f"{spec.name}.plan", sha256="c" * 64, bytes=1, **outer)  # type: ignore[arg-type]


def _device(capability: str | None = "8.9", platform: str = "linux-x86_64") -> Device:
    return Device("gpu", 0, "a card", capability, 24 * 10**9, 23 * 10**9, "580.1", platform)


CAPABILITIES = ("7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "11.0", "12.0", "12.1")
SETS = (("7.5",), ("8.0",), ("8.6", "8.9", "12.0"), ("8.9", "12.0"), ("12.0",))
PRECISIONS = ("float16", "fp8")
MATRIX = list(itertools.product(SETS, CAPABILITIES, PRECISIONS))  # 90 cases


@pytest.mark.parametrize(("held", "capability", "precision"), MATRIX)
def test_an_engine_runs_where_it_holds_code(held: tuple[str, ...], capability: str, precision: str) -> None:
    picked = pick("denoiser", [_engine(capabilities=held, precision=precision)], ORIGIN, _device(capability), LIBRARIES)
    if capability in held:
        assert isinstance(picked, Choice)
        assert precision in picked.reason
        assert capability in picked.reason
    elif (capability, held) == ("9.0", ("8.0",)):
        assert isinstance(picked, Choice)
        assert "untested" in picked.reason
    else:
        assert isinstance(picked, Refusal)
        assert capability in picked.problem
        assert "unipic2-edge build" in picked.mend


@pytest.mark.parametrize(("built", "running"), list(itertools.product(["1.7.0", "1.7.1.116", "1.8.0"], repeat=2)))
@pytest.mark.parametrize("backend", ["tensorrt_rtx", "tensorrt"])
def test_plans_need_the_very_version_that_built_them(built: str, running: str, backend: str) -> None:
    engine = _engine(backend=backend, backend_version=built)
    picked = pick("denoiser", [engine], ORIGIN, _device(), {backend: Library(running)})
    assert isinstance(picked, Choice) == (built == running)
    if isinstance(picked, Refusal):
        assert built in picked.problem
        assert running in picked.problem
        assert f"pip install {backend.replace('_', '-')}=={built}" in picked.mend


@pytest.mark.parametrize(
    ("built", "running", "runs"),
    [("10.3.0", "10.3.0", True), ("10.3.0", "10.13.1", True), ("10.13.1", "10.3.0", False), ("10.3", "11.0", True)],
)
def test_version_compatible_plans_run_on_newer_versions(built: str, running: str, runs: bool) -> None:
    engine = _engine(backend="tensorrt", backend_version=built, settings={"version_compatible": True})
    picked = pick("denoiser", [engine], ORIGIN, _device(), {"tensorrt": Library(running)})
    assert isinstance(picked, Choice) == runs


@pytest.mark.parametrize(
    ("engines", "device", "libraries", "said", "mend"),
    [
        ([], _device(), LIBRARIES, "no engine of denoiser", "unipic2-edge build"),
        ([_engine(graph="modulation")], _device(), LIBRARIES, "no engine of denoiser", "unipic2-edge build"),
        ([_engine(backend="onnxruntime")], _device(), LIBRARIES, "no engine of denoiser", "unipic2-edge build"),
        ([_engine()], _device(platform="windows-x86_64"), LIBRARIES, "for linux-x86_64", "--platform windows-x86_64"),
        ([_engine(platform="windows-x86_64")], _device(), LIBRARIES, "for windows-x86_64", "--platform linux-x86_64"),
        ([_engine()], _device("8.7", "linux-aarch64"), LIBRARIES, "this is linux-aarch64", "unipic2-edge build"),
        ([_engine()], _device("7.5"), LIBRARIES, "has 7.5", "unipic2-edge build"),
        ([_engine()], _device("12.1"), LIBRARIES, "has 12.1", "unipic2-edge build"),
        ([_engine()], _device(None), LIBRARIES, "is no GPU", "--device cpu"),
        ([_engine()], _device(), {}, "is not installed", 'pip install "unipic2-edge[rtx]"'),
        ([_engine(backend="tensorrt")], _device(), {}, "is not installed", 'pip install "unipic2-edge[tensorrt]"'),
        (
            [_engine()],
            _device(),
            {"tensorrt_rtx": Library(None, "libcudart.so.13: cannot open shared object file")},
            "libcudart.so.13",
            "update the driver and CUDA",
        ),
        ([_engine()], _device(), {"tensorrt_rtx": Library("1.6.0")}, "and this is 1.6.0", "tensorrt-rtx==1.7.1.116"),
        ([_engine()], _device(), {"tensorrt_rtx": Library("1.8.0")}, "and this is 1.8.0", "tensorrt-rtx==1.7.1.116"),
        (
            [_engine(compiled_from=CompiledFrom(graph="d" * 64, weights="b" * 64))],
            _device(),
            LIBRARIES,
            "another graph or other weights",
            "unipic2-edge build",
        ),
        (
            [_engine(compiled_from=CompiledFrom(graph="a" * 64, weights="d" * 64))],
            _device(),
            LIBRARIES,
            "another graph or other weights",
            "unipic2-edge build",
        ),
    ],
)
def test_every_mismatch_is_explained_with_its_mend(
    engines: list[Engine], device: Device, libraries: dict[str, Library], said: str, mend: str
) -> None:
    refused = pick("denoiser", engines, ORIGIN, device, libraries)
    assert isinstance(refused, Refusal)
    assert said in refused.problem
    assert mend in refused.mend


def test_the_nearest_engine_gives_the_reason() -> None:
    far, near = _engine(platform="windows-x86_64"), _engine(backend_version="1.6.0")
    refused = pick("denoiser", [far, near], ORIGIN, _device(), LIBRARIES)
    assert isinstance(refused, Refusal)
    assert "1.6.0" in refused.problem


def test_code_for_the_very_card_wins_over_code_said_to_run_and_newer_over_older() -> None:
    said, exact = (
        _engine(capabilities=("8.0",), verified_ns=9),
        _engine(capabilities=("9.0",), backend="tensorrt", backend_version=TRT),
    )
    picked = pick("denoiser", [said, exact], ORIGIN, _device("9.0"), LIBRARIES)
    assert isinstance(picked, Choice)
    assert picked.engine is exact
    old, new = _engine(verified_ns=1, precision="fp8"), _engine(verified_ns=2)
    assert pick("denoiser", [old, new], ORIGIN, _device(), LIBRARIES) == Choice(
        new, "bfloat16, tensorrt_rtx 1.7.1.116, holds code for 8.9"
    )
