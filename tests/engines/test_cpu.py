"""The cpu target's engines: optimised, portable, small, and equal in what they compute."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from unipic2_edge.runtime.bundle import Bundle, FileEntry, write_manifest
from unipic2_edge.runtime.engine import STORE, engine_path
from unipic2_edge.runtime.errors import BundleError, RequestError, WorkError
from unipic2_edge.runtime.files import sha256_of
from unipic2_edge.runtime.opening import open_session

from .conftest import build_for, flip


def _inputs(bundle: Bundle, graph: str) -> dict[str, np.ndarray]:
    shape = [side if isinstance(side, int) else 5 for side in bundle.graph(graph).inputs[0].shape]
    return {"x": np.random.default_rng(1).standard_normal(shape, dtype=np.float32)}


def _engines(bundle: Bundle) -> dict[str, Path]:
    return {made.engine.spec.graph: engine_path(bundle, made.engine) for made in build_for(bundle, "cpu")}


def test_an_engine_is_optimised_and_computes_the_same(bundle: Bundle) -> None:
    before = {name: open_session(bundle, name).run(_inputs(bundle, name))["y"] for name in bundle.manifest.graphs}
    optimised = onnx.load(str(_engines(bundle)["line"]), load_external_data=False)
    assert "Identity" not in {node.op_type for node in optimised.graph.node}
    for name, expected in before.items():
        np.testing.assert_allclose(
            open_session(bundle, name).run(_inputs(bundle, name))["y"], expected, rtol=1e-5, atol=1e-5
        )


def test_weights_are_not_stored_twice(bundle: Bundle) -> None:
    for name, path in _engines(bundle).items():
        model = onnx.load(str(path), load_external_data=False)
        inside = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
        assert inside < 256, f"{name} holds {inside} bytes of weights"
        locations = {
            entry.value
            for tensor in model.graph.initializer
            for entry in tensor.external_data
            if entry.key == "location"
        }
        assert locations == {f"{name}.safetensors"}


def test_engines_suit_any_processor(bundle: Bundle) -> None:
    model = onnx.load(str(_engines(bundle)["picture"]), load_external_data=False)
    assert "com.microsoft.nchwc" not in {node.domain for node in model.graph.node}


def test_another_number_of_threads_is_another_engine(bundle: Bundle) -> None:
    build_for(bundle, "cpu", threads=1)
    made = build_for(bundle, "cpu", threads=2)
    assert [built.cached for built in made] == [False, False]
    assert made[0].engine.spec.settings["threads"] == 2


def test_a_precision_the_cpu_does_not_run_is_refused(bundle: Bundle) -> None:
    components = {
        name: msgspec.structs.replace(component, precision="bfloat16")
        for name, component in bundle.manifest.components.items()
    }
    write_manifest(bundle.folder, msgspec.structs.replace(bundle.manifest, components=components))
    with pytest.raises(RequestError, match="bfloat16") as refused:
        build_for(Bundle(bundle.folder), "cpu")
    assert refused.value.exit_code == 2
    assert "fp32" in refused.value.mend
    assert not (bundle.folder / "engines").exists()


def test_a_damaged_bundle_is_never_compiled(bundle: Bundle) -> None:
    flip(bundle.folder / "weights" / "line.safetensors", -1)
    with pytest.raises(BundleError, match="damaged"):
        build_for(bundle, "cpu")
    assert not list((bundle.folder / STORE).glob("line*"))
    assert not (bundle.folder / "engines" / "cpu.json").exists()


def test_a_graph_onnx_runtime_refuses_is_a_work_error(bundle: Bundle) -> None:
    path = bundle.folder / "graphs" / "line.onnx"
    path.write_bytes(b"no graph at all")
    files = bundle.manifest.files | {"graphs/line.onnx": FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)}
    write_manifest(bundle.folder, msgspec.structs.replace(bundle.manifest, files=files))
    with pytest.raises(WorkError, match="could not compile line"):
        build_for(Bundle(bundle.folder), "cpu")
