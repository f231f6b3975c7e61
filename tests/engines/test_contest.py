"""Two backends for one processor: both are timed, one serves, and the next build knows it."""

from __future__ import annotations

import msgspec
import pytest

from unipic2_edge.engines import contest as contest_module
from unipic2_edge.engines.build import Built, build_targets
from unipic2_edge.engines.contest import decide, example_inputs, hold_contest
from unipic2_edge.engines.engine_set import Options
from unipic2_edge.engines.openvino import OpenVINOCompiler
from unipic2_edge.engines.sizes import default_sizes, profile_of
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.engine import STORE, Contest, read_target, stored_engines
from unipic2_edge.runtime.errors import WorkError
from unipic2_edge.runtime.onnx_session import OnnxRuntimeSession
from unipic2_edge.runtime.opening import open_session
from unipic2_edge.runtime.openvino_session import OpenVINOSession

from .conftest import build_for


def _build(bundle: Bundle, threads: int | None = 1) -> list[Built]:
    return build_targets(bundle, "cpu", Options(sizes=default_sizes(bundle.manifest), threads=threads))


def _contests(**seconds: tuple[float, float]) -> dict[str, Contest]:
    return {
        graph: Contest(processor="p", threads=1, seconds={f"{graph}-a": first, f"{graph}-b": second})
        for graph, (first, second) in seconds.items()
    }


def test_both_are_timed_one_serves_and_the_record_says_why(bundle: Bundle) -> None:
    built = _build(bundle)
    record = read_target(bundle, "cpu")
    assert record is not None
    for made in built:
        graph = made.engine.spec.graph
        assert [rival.spec.backend for rival in made.rivals] == ["onnxruntime", "openvino"]
        assert record.engines[graph] == made.engine.spec.name
        assert record.contests[graph] == made.contest
        assert set(record.contests[graph].seconds) == {rival.spec.name for rival in made.rivals}
        assert all(seconds > 0 for seconds in record.contests[graph].seconds.values())
        assert record.contests[graph].threads == 1
        open_session(bundle, graph)


def test_the_next_build_measures_nothing(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _build(bundle)
    stamps = {path.name: path.stat().st_mtime_ns for path in (bundle.folder / STORE).iterdir()}

    def never(*arguments: object) -> Contest:
        raise AssertionError("it was measured before")

    monkeypatch.setattr(contest_module, "hold_contest", never)
    second = _build(Bundle(bundle.folder))
    assert [made.cached for made in second] == [True, True]
    assert [made.engine for made in second] == [made.engine for made in first]
    assert {path.name: path.stat().st_mtime_ns for path in (bundle.folder / STORE).iterdir()} == stamps


@pytest.mark.parametrize("change", ["processor", "threads"])
def test_another_processor_or_number_of_threads_is_measured_again(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    _build(bundle)
    held: list[str] = []
    real = hold_contest

    def counted(*arguments: object) -> Contest:
        held.append("held")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(contest_module, "hold_contest", counted)
    if change == "processor":
        monkeypatch.setattr(contest_module, "processor_name", lambda: "another one")
    _build(bundle, threads=1 if change == "processor" else 2)
    assert len(held) == 2


def test_a_backend_that_is_asked_for_ends_the_contest(bundle: Bundle) -> None:
    _build(bundle)
    built = build_for(bundle, "cpu", backend="openvino")
    assert [made.cached for made in built] == [True, True]
    record = read_target(bundle, "cpu")
    assert record is not None
    assert record.contests == {}
    assert {engine.spec.backend for engine in stored_engines(bundle)} == {"openvino"}


def test_a_graph_that_only_the_first_backend_compiles_is_served_by_it(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: object) -> None:
        raise WorkError("OpenVINO could not compile it")

    monkeypatch.setattr(OpenVINOCompiler, "compile", refuse)
    built = _build(bundle)
    assert [(made.engine.spec.backend, made.contest) for made in built] == [("onnxruntime", None)] * 2
    assert "openvino: OpenVINO could not compile it" in caplog.text


def test_a_graph_that_only_the_first_backend_runs_is_served_by_it(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: object) -> None:
        raise WorkError("OpenVINO failed in it")

    monkeypatch.setattr(OpenVINOSession, "run", refuse)
    for made in _build(bundle):
        assert made.engine.spec.backend == "onnxruntime"
        assert made.contest is not None
        assert list(made.contest.seconds) == [made.engine.spec.name]
    assert "openvino: OpenVINO failed in it" in caplog.text


def test_what_the_first_backend_refuses_is_an_error(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise WorkError("ONNX Runtime failed in it")

    monkeypatch.setattr(OnnxRuntimeSession, "run", refuse)
    with pytest.raises(WorkError, match="ONNX Runtime failed"):
        _build(bundle)
    assert read_target(bundle, "cpu") is None


def test_the_first_backend_stays_unless_another_saves_a_part_of_a_picture(bundle: Bundle) -> None:
    steps = 10
    defaults = {
        name: msgspec.structs.replace(task, num_inference_steps=steps)
        for name, task in bundle.manifest.defaults.items()
    }
    bundle.manifest.defaults.update(defaults)
    chosen = decide(bundle, _contests(denoiser=(0.1, 0.08), text_encoder=(0.01, 0.001), vae_decoder=(0.3, 0.1)))
    assert chosen == {"denoiser": "denoiser-b", "text_encoder": "text_encoder-a", "vae_decoder": "vae_decoder-b"}
    assert decide(bundle, _contests(denoiser=(0.1, 0.099)))["denoiser"] == "denoiser-a"
    assert decide(bundle, _contests(denoiser=(0.1, 0.2)))["denoiser"] == "denoiser-a"


def test_the_example_has_the_profiles_likely_shapes(bundle: Bundle) -> None:
    profile = profile_of(bundle.manifest, "picture", default_sizes(bundle.manifest))
    inputs = example_inputs(bundle, "picture", profile)
    assert inputs["x"].shape == profile["x"].opt
    assert inputs["x"].dtype.name == "float32"
