"""OpenVINO's engines: equal in what they compute, without weights, the same bytes each time, or one clear line."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from unipic2_edge.engines import openvino as compiler_module
from unipic2_edge.engines.engine_set import Options, check_target, engine_set
from unipic2_edge.engines.openvino import openvino_version
from unipic2_edge.engines.sizes import default_sizes
from unipic2_edge.engines.targets import find_target
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.engine import Engine, engine_path
from unipic2_edge.runtime.errors import BundleError, RequestError, WorkError
from unipic2_edge.runtime.opening import open_on_processor, open_session
from unipic2_edge.runtime.openvino_session import CONSTANTS

from .conftest import build_for, flip, replace_graph


def _inputs(bundle: Bundle, graph: str, extent: int = 5) -> dict[str, np.ndarray]:
    shape = [side if isinstance(side, int) else extent for side in bundle.graph(graph).inputs[0].shape]
    return {"x": np.random.default_rng(1).standard_normal(shape, dtype=np.float32)}


def _engines(bundle: Bundle, **options: str) -> dict[str, Engine]:
    built = build_for(bundle, "cpu", backend="openvino", **options)
    return {made.engine.spec.graph: made.engine for made in built}


@pytest.mark.parametrize("graph", ["line", "picture"])
@pytest.mark.parametrize("extent", [1, 5, 12])
def test_an_engine_computes_what_onnx_runtime_does(bundle: Bundle, graph: str, extent: int) -> None:
    inputs = _inputs(bundle, graph, extent)
    expected = open_session(bundle, graph).run(inputs)["y"]
    found = open_on_processor(bundle, _engines(bundle)[graph], threads=2).run(inputs)["y"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_weights_are_not_stored_twice(bundle: Bundle) -> None:
    for graph, engine in _engines(bundle).items():
        with zipfile.ZipFile(engine_path(bundle, engine)) as parts:
            assert len(parts.read(CONSTANTS)) < 256, graph
        assert engine.bytes < 4096


def test_the_same_graph_gives_the_same_bytes(bundle: Bundle) -> None:
    first = {graph: (engine.spec, engine.sha256) for graph, engine in _engines(bundle).items()}
    for path in (bundle.folder / "engines" / "store").iterdir():
        path.unlink()
    assert {graph: (engine.spec, engine.sha256) for graph, engine in _engines(bundle).items()} == first


def test_the_second_build_is_a_hit(bundle: Bundle) -> None:
    for cached in (False, True):
        built = build_for(bundle, "cpu", backend="openvino")
        assert [made.cached for made in built] == [cached, cached]
        assert {made.engine.spec.backend_version for made in built} == {openvino_version()}


def test_engines_run_on_any_processor_with_any_threads(bundle: Bundle) -> None:
    first, second = build_for(bundle, "cpu", 1, "openvino"), build_for(bundle, "cpu", 2, "openvino")
    assert [made.cached for made in second] == [True, True]
    assert {made.engine.spec.platform for made in first} == {"any"}


def test_bf16_is_another_engine_and_needs_a_processor_that_has_it(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler_module, "has_bfloat16", lambda: False)
    with pytest.raises(RequestError, match="no bfloat16 products") as refused:
        _engines(bundle, inference_precision="bf16")
    assert "f32" in refused.value.mend
    assert not (bundle.folder / "engines").exists()
    monkeypatch.setattr(compiler_module, "has_bfloat16", lambda: True)
    inputs = _inputs(bundle, "line")
    expected = open_session(bundle, "line").run(inputs)["y"]
    exact = _engines(bundle)["line"]
    engine = _engines(bundle, inference_precision="bf16")["line"]
    assert engine.spec.settings["inference_precision"] == "bf16"
    assert engine.spec.key != exact.spec.key
    # Where the processor has none, OpenVINO computes in float32; where it has them, with 8 bits of mantissa.
    found = open_on_processor(bundle, engine).run(inputs)["y"]
    np.testing.assert_allclose(found, expected, atol=0.03 * float(np.abs(expected).max()))


def test_a_graph_that_openvino_does_not_know_is_a_work_error(bundle: Bundle) -> None:
    model = onnx.load_from_string(bundle.read("graphs/line.onnx"))
    model.graph.node[-1].op_type, model.graph.node[-1].domain = "Divination", "made.up"
    model.opset_import.add(domain="made.up", version=1)
    changed = replace_graph(bundle, "line", model.SerializeToString())
    with pytest.raises(WorkError, match="could not compile line") as refused:
        _engines(changed)
    assert "Divination" in refused.value.problem
    assert "\n" not in refused.value.problem
    assert "onnxruntime" in refused.value.mend
    assert not list((bundle.folder / "engines" / "store").glob("line*"))


@pytest.mark.parametrize("model", [b"no graph at all", b""])
def test_what_is_no_graph_is_a_work_error(bundle: Bundle, model: bytes) -> None:
    with pytest.raises(WorkError, match="could not compile line"):
        _engines(replace_graph(bundle, "line", model))


def test_a_damaged_bundle_is_never_compiled(bundle: Bundle) -> None:
    flip(bundle.folder / "weights" / "line.safetensors", -1)
    with pytest.raises(BundleError, match="damaged"):
        _engines(bundle)
    assert not (bundle.folder / "engines" / "cpu.json").exists()


def test_a_precision_that_only_openvino_runs_goes_through_it(bundle: Bundle) -> None:
    components = {"precision": "float16"}
    model = bundle.read("graphs/line.onnx")
    half = replace_graph(
        replace_graph(bundle, "line", model, **components), "picture", bundle.read("graphs/picture.onnx"), **components
    )
    options = Options(sizes=default_sizes(half.manifest))
    assert {job.spec.backend for job in engine_set(half, [find_target("cpu")], options)} == {"openvino"}
    with pytest.raises(RequestError, match="float16"):
        check_target(half, find_target("cpu"), Options(sizes=options.sizes, backend="onnxruntime"))


def test_an_engine_says_where_its_weights_lie(bundle: Bundle, tmp_path: Path) -> None:
    engine = _engines(bundle)["line"]
    with zipfile.ZipFile(engine_path(bundle, engine)) as parts:
        assert sorted(parts.namelist()) == ["constants.bin", "graph.xml", "weights.json"]
        text = parts.read("graph.xml").decode()
    assert str(tmp_path) not in text
    assert "/tmp" not in text
