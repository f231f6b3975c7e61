"""The OpenVINO adapter: pictures through its engines, inputs checked, and what does not fit refused or passed over."""

from __future__ import annotations

import builtins
import io
import logging
import threading
import zipfile
from typing import Any

import msgspec
import numpy as np
import pytest

from unipic2_edge.engines.build import build_targets
from unipic2_edge.engines.engine_set import Options
from unipic2_edge.engines.sizes import default_sizes
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.engine import (
    STORE,
    CompiledFrom,
    Engine,
    read_engine,
    read_target,
    write_engine,
    write_target,
)
from unipic2_edge.runtime.errors import BundleError, MissingDependencyError, RequestError, WorkError
from unipic2_edge.runtime.files import sha256_of
from unipic2_edge.runtime.onnx_session import OnnxRuntimeSession
from unipic2_edge.runtime.opening import open_session
from unipic2_edge.runtime.openvino_session import OpenVINOSession, import_openvino, what_it_said
from unipic2_edge.runtime.picker import Library
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.runtime.placement import place

IDS = np.array([[1, 4, 5, 2, 0, 0], [1, 2, 0, 0, 0, 0]])


@pytest.fixture
def built(bundle: Bundle) -> Bundle:
    """The hand-made bundle with OpenVINO's engines."""
    build_targets(bundle, "cpu", Options(sizes=default_sizes(bundle.manifest), backend="openvino"))
    return Bundle(bundle.folder)


def _engine(bundle: Bundle, graph: str = "text_encoder") -> Engine:
    record = read_target(bundle, "cpu")
    assert record is not None
    return read_engine(bundle, record.engines[graph])


def _replace(bundle: Bundle, data: bytes | None = None, **changes: Any) -> Engine:
    """Put another engine of the text encoder in the standing one's place; `changes` are to its spec."""
    old = _engine(bundle)
    spec = msgspec.structs.replace(old.spec, **changes)
    path = bundle.folder / STORE / f"{spec.name}.zip"
    path.write_bytes((bundle.folder / STORE / old.file).read_bytes() if data is None else data)
    new = msgspec.structs.replace(old, spec=spec, file=path.name, sha256=sha256_of(path), bytes=path.stat().st_size)
    write_engine(bundle, new)
    record = read_target(bundle, "cpu")
    assert record is not None
    write_target(bundle, msgspec.structs.replace(record, engines=record.engines | {"text_encoder": spec.name}))
    return new


def test_every_graph_computes_what_onnx_runtime_does(built: Bundle) -> None:
    rng = np.random.default_rng(0)
    extents = {"batch": 2, "tokens": 6, "context": 5, "steps": 4, "height": 24, "width": 32, "h": 6, "w": 8}
    for name, graph in built.manifest.graphs.items():
        inputs = {}
        for spec in graph.inputs:
            shape = [extents[side] if isinstance(side, str) else side for side in spec.shape]
            inputs[spec.name] = (
                rng.integers(0, 5, shape) if spec.dtype == "int64" else rng.standard_normal(shape, np.float32)
            )
        expected = OnnxRuntimeSession(built, name).run(inputs)
        found = OpenVINOSession(built, _engine(built, name), threads=2).run(inputs)
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert found[key].dtype == value.dtype
            np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-4, err_msg=f"{name}.{key}")


def test_a_picture_is_the_one_that_onnx_runtime_makes(bundle: Bundle) -> None:
    plain = Pipeline.load(bundle.folder, device="cpu").generate("a red circle", seed=3).images[0]
    build_targets(bundle, "cpu", Options(sizes=default_sizes(bundle.manifest), backend="openvino"))
    pipeline = Pipeline.load(bundle.folder, device="cpu", threads=2)
    lines = pipeline.explain()
    assert all(any(f"  {graph}: float32, openvino" in line for line in lines) for graph in bundle.manifest.graphs)
    made = pipeline.generate("a red circle", seed=3).images[0]
    assert np.abs(np.asarray(made, np.int16) - np.asarray(plain, np.int16)).max() <= 1
    pipeline.close()


def test_without_engines_every_graph_is_onnx_runtimes(bundle: Bundle) -> None:
    assert place(bundle, "cpu").lines()[1:] == ["  every graph: onnxruntime"]
    assert isinstance(open_session(bundle, "denoiser", "cpu"), OnnxRuntimeSession)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"input_ids": IDS.astype(np.int32)}, "input_ids as int64, not int32"),
        ({"input_ids": IDS[:, :3]}, r"\[batch, 6\] with 6 = 6, not"),
        ({}, "needs the input 'input_ids'"),
        ({"input_ids": IDS, "more": IDS}, "has no input 'more'"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(built: Bundle, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(RequestError, match=problem):
        open_session(built, "text_encoder", "cpu").run(change)


def test_inputs_may_be_read_only_and_strided_and_outputs_are_the_callers(built: Bundle) -> None:
    session = open_session(built, "vae_decoder", "cpu")
    assert isinstance(session, OpenVINOSession)
    latents = np.random.default_rng(0).standard_normal((1, 2, 6, 8), np.float32)
    expected = session.run({"latents": latents})["image"]
    kept = expected.copy()
    latents.flags.writeable = False
    np.testing.assert_array_equal(session.run({"latents": latents})["image"], expected)
    strided = np.ascontiguousarray(latents.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    np.testing.assert_array_equal(session.run({"latents": strided})["image"], expected)
    session.run({"latents": np.ones((2, 2, 3, 3), np.float32)})
    np.testing.assert_array_equal(expected, kept)


def test_threads_may_share_a_session(built: Bundle, weights: dict) -> None:
    session = open_session(built, "text_encoder", "cpu")
    wrong: list[int] = []

    def work(row: int) -> None:
        ids = np.full((3, 6), row)
        for _ in range(50):
            hidden = session.run({"input_ids": ids})["hidden"]
            if not np.array_equal(hidden, weights["text_encoder"]["table"][ids]):
                wrong.append(row)

    workers = [threading.Thread(target=work, args=(row,)) for row in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_a_failure_inside_the_backend_is_a_work_error(built: Bundle) -> None:
    session = open_session(built, "text_encoder", "cpu")

    class Broken:
        def infer(self, *arguments: object, **options: object) -> None:
            raise RuntimeError("Exception from src/inference/a.cpp:1:\nCheck 'a' failed at b.cpp:2:\nno memory\nmore")

    session._request = Broken()  # type: ignore[attr-defined]
    with pytest.raises(WorkError, match=r"failed in graphs/text_encoder\.onnx: no memory") as caught:
        session.run({"input_ids": IDS})
    assert "\n" not in caught.value.problem


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("Exception from a.cpp:1:\nCheck 'x' failed at b.cpp:2:\nout of luck\n\n", "out of luck"),
        ("Exception from a.cpp:1:\nSummary:\n-- No conversion rule found for A\n", "No conversion rule found for A"),
        ("", "RuntimeError"),
    ],
)
def test_its_messages_are_told_in_one_line(message: str, said: str) -> None:
    assert what_it_said(RuntimeError(message)) == said


def test_a_closed_session_holds_nothing(built: Bundle) -> None:
    session = open_session(built, "text_encoder", "cpu")
    session.close()
    assert not [
        value for name, value in vars(session).items() if name in ("_request", "_weights") and value is not None
    ]


def test_a_flipped_weight_never_reaches_the_backend(built: Bundle) -> None:
    path = built.folder / "weights/denoiser.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(BundleError, match=r"denoiser\.safetensors is damaged"):
        open_session(Bundle(built.folder), "denoiser", "cpu")


def _zip(**parts: bytes) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name.replace("_", "."), content)
    return data.getvalue()


@pytest.mark.parametrize(
    "data", [b"no zip", _zip(), _zip(graph_xml=b"", constants_bin=b"", weights_json=b"[]"), _zip(graph_xml=b"<net/>")]
)
def test_what_is_no_engine_is_refused(built: Bundle, data: bytes) -> None:
    _replace(built, data)
    with pytest.raises(BundleError, match="damaged") as caught:
        open_session(built, "text_encoder", "cpu")
    assert "unipic2-edge build" in caught.value.mend


@pytest.mark.parametrize("places", [b"{}", b'{"table": [0, 4]}', b'{"table": [1000000000, 64]}', b'{"table": [-8, 8]}'])
def test_weights_that_are_not_where_they_are_said_to_be_are_refused(built: Bundle, places: bytes) -> None:
    with zipfile.ZipFile(built.folder / STORE / _engine(built).file) as parts:
        _replace(
            built,
            _zip(graph_xml=parts.read("graph.xml"), constants_bin=parts.read("constants.bin"), weights_json=places),
        )
    with pytest.raises(BundleError, match="damaged"):
        open_session(built, "text_encoder", "cpu")


def test_a_graph_that_openvino_refuses_is_a_work_error(built: Bundle) -> None:
    _replace(built, _zip(graph_xml=b"<net>", constants_bin=b"", weights_json=b"{}"))
    with pytest.raises(WorkError, match="could not open text_encoder") as caught:
        open_session(built, "text_encoder", "cpu")
    assert "\n" not in caught.value.problem


def test_an_engine_of_other_weights_is_refused(built: Bundle) -> None:
    _replace(built, compiled_from=CompiledFrom(graph="0" * 64, weights="0" * 64))
    with pytest.raises(BundleError, match="built from another graph"):
        open_session(built, "text_encoder", "cpu")


@pytest.mark.parametrize(
    ("version", "serves"), [(None, False), ("2025.9.0", False), ("2026.0.0", True), ("2026.10.0", True)]
)
def test_older_releases_and_none_leave_the_plain_graphs_to_onnx_runtime(
    built: Bundle, caplog: pytest.LogCaptureFixture, version: str | None, serves: bool
) -> None:
    record = read_target(built, "cpu")
    assert record is not None
    only = msgspec.structs.replace(record, engines={"text_encoder": record.engines["text_encoder"]})
    write_target(built, only)
    _replace(built, backend_version="2026.0.0")
    with caplog.at_level(logging.WARNING):
        placed = place(built, "cpu", libraries=lambda: {"openvino": Library(version)})
    assert set(placed.choices) == ({"text_encoder"} if serves else set())
    assert ("using the plain graphs" in caplog.text) is not serves
    assert placed.memory(1) is None  # the processor's memory is not planned
    assert isinstance(OnnxRuntimeSession(built, "text_encoder"), OnnxRuntimeSession)


def test_a_missing_openvino_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "openvino":
            raise ModuleNotFoundError("No module named 'openvino'", name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingDependencyError, match="not installed") as caught:
        import_openvino()
    assert 'pip install "unipic2-edge[openvino]"' in caught.value.mend
