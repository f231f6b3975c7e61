"""Sessions: what goes in is checked, engines are used only when they are what they say, failures are user errors."""

from __future__ import annotations

import builtins
import logging
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from unipic2_edge.runtime import onnx_session
from unipic2_edge.runtime.bundle import Bundle, FileEntry
from unipic2_edge.runtime.engine import (
    STORE,
    CompiledFrom,
    Engine,
    EngineSpec,
    TargetEngines,
    built_targets,
    engine_origin,
    read_target,
    write_engine,
    write_target,
)
from unipic2_edge.runtime.errors import BundleError, MissingDependencyError, RequestError, WorkError
from unipic2_edge.runtime.files import sha256_of
from unipic2_edge.runtime.onnx_session import _waiting, import_onnxruntime
from unipic2_edge.runtime.opening import open_session

IDS = np.array([[1, 4, 5, 2, 0, 0], [1, 2, 0, 0, 0, 0]])


def _inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"patches": (2, 6, 8), "positions": (6, 8), "context": (2, 5, 8), "modulation": (2, 8)}
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def test_a_graph_runs_on_its_external_weights(bundle: Bundle, weights: dict) -> None:
    outputs = open_session(bundle, "text_encoder").run({"input_ids": IDS})
    hidden = weights["text_encoder"]["table"][IDS]
    assert list(outputs) == ["hidden", "pooled"]
    np.testing.assert_array_equal(outputs["hidden"], hidden)
    np.testing.assert_allclose(outputs["pooled"], hidden.mean(1), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"patches": None}, "needs the input 'patches'"),
        ({"timestep": np.zeros(1, np.float32)}, "no input 'timestep'"),
        ({"patches": np.zeros((2, 6, 8))}, "patches as float32, not float64"),
        ({"patches": np.zeros((6, 8), np.float32)}, r"patches as \[batch, tokens, 8\], not \[6, 8\]"),
        ({"patches": np.zeros((2, 6, 9), np.float32)}, "with 8 = 8, not"),
        ({"positions": np.zeros((5, 8), np.float32)}, "with tokens = 6, not"),
        ({"modulation": np.zeros((1, 8), np.float32)}, "with batch = 2, not"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(bundle: Bundle, change: dict[str, Any], problem: str) -> None:
    inputs = {name: value for name, value in (_inputs() | change).items() if value is not None}
    with pytest.raises(RequestError, match=problem):
        open_session(bundle, "denoiser").run(inputs)


def test_a_flipped_weight_never_reaches_the_backend(folder: Path) -> None:
    path = folder / "weights/denoiser.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(BundleError, match=r"denoiser\.safetensors is damaged"):
        open_session(Bundle(folder), "denoiser")


def test_a_graph_the_backend_refuses_is_a_work_error(folder: Path) -> None:
    bundle = Bundle(folder)
    (folder / "graphs/denoiser.onnx").write_bytes(b"no graph")
    bundle.manifest.files["graphs/denoiser.onnx"] = FileEntry(
        sha256=sha256_of(folder / "graphs/denoiser.onnx"), bytes=8
    )
    with pytest.raises(WorkError, match="could not open denoiser") as caught:
        open_session(bundle, "denoiser")
    assert "\n" not in caught.value.problem


def test_a_failure_inside_the_backend_is_a_work_error(bundle: Bundle) -> None:
    with pytest.raises(WorkError, match=r"failed in graphs/text_encoder\.onnx") as caught:
        open_session(bundle, "text_encoder").run({"input_ids": IDS + 10_000})  # outside the table
    assert "\n" not in caught.value.problem


@pytest.mark.parametrize(
    ("version", "entries"),
    [
        ("1.23.2", {"allow_spinning": "0"}),
        ("1.26.0", {"spin_duration_us": "100"}),
        ("2.0.1", {"spin_duration_us": "100"}),
    ],
)
def test_threads_never_wait_awake_for_long(version: str, entries: dict[str, str]) -> None:
    assert _waiting(version) == entries


def test_an_unknown_device_is_refused(bundle: Bundle) -> None:
    with pytest.raises(RequestError, match="no device 'tpu'") as caught:
        open_session(bundle, "denoiser", device="tpu")
    assert "cpu" in caught.value.mend


def test_a_missing_onnxruntime_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'", name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingDependencyError, match="not installed") as caught:
        import_onnxruntime()
    assert 'pip install "unipic2-edge[cpu]"' in caught.value.mend


def _doubled(bundle: Bundle) -> bytes:
    """The text encoder's graph with a last node that doubles `pooled`: an engine one can tell from the graph."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(bundle.read("graphs/text_encoder.onnx"))
    model.graph.node[-1].output[0] = "half"
    model.graph.node.append(onnx.helper.make_node("Add", ["half", "half"], ["pooled"]))
    return bytes(model.SerializeToString())


def _build(bundle: Bundle, **changes: Any) -> None:
    """Put the engine into the store; `changes` are to its spec or to its record."""
    spec = EngineSpec(
        graph="text_encoder",
        compiled_from=engine_origin(bundle, "text_encoder"),
        precision="float32",
        backend="onnxruntime",
        backend_version=import_onnxruntime().__version__,
        capabilities=(),
        platform="any",
        profile={},
        settings={},
    )
    spec = msgspec.structs.replace(spec, **{name: changes.pop(name) for name in list(changes) if hasattr(spec, name)})
    path = bundle.folder / STORE / f"{spec.name}.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(_doubled(bundle))
    record = {"spec": spec, "file": path.name, "sha256": sha256_of(path), "bytes": path.stat().st_size}
    engine = Engine(**(record | changes))
    write_engine(bundle, engine)
    write_target(bundle, TargetEngines(target="cpu", engines={"text_encoder": spec.name}))


def _doubles(bundle: Bundle, weights: dict) -> bool:
    pooled = open_session(bundle, "text_encoder").run({"input_ids": IDS})["pooled"]
    plain = weights["text_encoder"]["table"][IDS].mean(1)
    assert np.allclose(pooled, plain, atol=1e-5) or np.allclose(pooled, 2 * plain, atol=1e-5)
    return bool(np.allclose(pooled, 2 * plain, atol=1e-5))


def test_the_engine_is_used_when_it_is_built(bundle: Bundle, weights: dict) -> None:
    assert built_targets(bundle) == []
    assert read_target(bundle, "cpu") is None
    assert not _doubles(bundle, weights)
    _build(bundle)
    assert built_targets(bundle) == ["cpu"]
    assert _doubles(bundle, weights)
    np.testing.assert_array_equal(
        open_session(bundle, "vae_decoder").run({"latents": np.zeros((1, 2, 2, 2), np.float32)})["image"], 0
    )


def test_another_versions_engine_is_left_alone(bundle: Bundle, weights: dict, caplog: pytest.LogCaptureFixture) -> None:
    _build(bundle, backend_version="0.1")
    with caplog.at_level(logging.WARNING):
        assert not _doubles(bundle, weights)
    assert "built by ONNX Runtime 0.1" in caplog.text


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"sha256": "0" * 64}, "SHA-256"),
        ({"bytes": 1}, "bytes"),
        ({"file": "missing.onnx"}, "describes another one"),
        ({"file": "../../graphs/text_encoder.onnx"}, "describes another one"),
        ({"compiled_from": CompiledFrom(graph="0" * 64, weights="0" * 64)}, "built from another graph"),
    ],
)
def test_an_engine_that_is_not_what_it_says_is_refused(bundle: Bundle, changes: dict[str, Any], problem: str) -> None:
    _build(bundle, **changes)
    with pytest.raises(BundleError, match=problem):
        open_session(bundle, "text_encoder")


@pytest.mark.parametrize("text", ["{", "{}", '{"target": 1}'])
@pytest.mark.parametrize(
    "where",
    [
        lambda bundle: "engines/cpu.json",
        lambda bundle: f"engines/store/{read_target(bundle, 'cpu').engines['text_encoder']}.json",
    ],
)
def test_a_damaged_record_is_refused(bundle: Bundle, text: str, where: Callable[[Bundle], str]) -> None:
    _build(bundle)
    (bundle.folder / where(bundle)).write_text(text)
    with pytest.raises(BundleError, match="damaged") as caught:
        open_session(bundle, "text_encoder")
    assert "unipic2-edge build" in caught.value.mend


def test_a_cuda_provider_that_does_not_load_is_said_and_not_passed_over(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime opens such a session on the processor, in silence."""
    real, preloaded = import_onnxruntime(), list[bool]()
    built_for_cuda = types.SimpleNamespace(
        get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        preload_dlls=lambda: preloaded.append(True),
        InferenceSession=lambda model, options, providers: real.InferenceSession(model, options, providers[-1:]),
        SessionOptions=real.SessionOptions,
        ExecutionMode=real.ExecutionMode,
        GraphOptimizationLevel=real.GraphOptimizationLevel,
        __version__=real.__version__,
    )
    monkeypatch.setattr(onnx_session, "import_onnxruntime", lambda: built_for_cuda)
    with pytest.raises(MissingDependencyError, match="CUDA provider does not load"):
        onnx_session.OnnxRuntimeSession(bundle, "text_encoder", gpu=0)
    assert preloaded == [True]
    assert onnx_session.OnnxRuntimeSession(bundle, "text_encoder").run({"input_ids": IDS})
