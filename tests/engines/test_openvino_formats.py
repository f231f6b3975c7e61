"""Quantised and half-precision graphs through OpenVINO, held against numpy: from the bundle's own weights file."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from safetensors.numpy import save

from unipic2_edge.runtime import openvino_session
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.engine import engine_path
from unipic2_edge.runtime.opening import open_on_processor
from unipic2_edge.runtime.openvino_session import CONSTANTS, saturates

from .conftest import CHANNELS, build_for, replace_graph

Floats = NDArray[np.float32]
#: Tensor → its type, its dimensions and its bytes as they lie in the file.
Stored = dict[str, tuple[int, tuple[int, ...], NDArray[np.generic]]]

WEIGHT = np.random.default_rng(2).standard_normal((CHANNELS, CHANNELS)).astype(np.float32)
INPUT = np.random.default_rng(3).standard_normal((5, CHANNELS)).astype(np.float32)
STEP = np.float32(np.abs(INPUT).max() / 127)  # of quantised activations


def _quantised(levels: int, block: int | None = None) -> tuple[NDArray[np.int8], Floats, Floats]:
    """Whole numbers, their scales (one a column, or one a column and block of rows) and the weights they stand for."""
    blocks = WEIGHT.reshape(-1, block or CHANNELS, CHANNELS)
    scales = (np.abs(blocks).max(1) / levels).astype(np.float32)
    whole = np.rint(blocks / scales[:, None]).astype(np.int8)
    meant = (whole * scales[:, None]).astype(np.float32).reshape(WEIGHT.shape)
    return whole.reshape(WEIGHT.shape), scales if block else scales[0], meant


def _product(weight: str, quantised_input: bool = False) -> list[onnx.NodeProto]:
    if not quantised_input:
        return [helper.make_node("MatMul", ["x", weight], ["y"])]
    return [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["whole"]),
        helper.make_node("DequantizeLinear", ["whole", "step", "zero"], ["rounded"]),
        helper.make_node("MatMul", ["rounded", weight], ["y"]),
    ]


def _int8(quantised_input: bool, levels: int = 127, block: int | None = None) -> tuple[list, Stored, Floats, int]:
    whole, scales, meant = _quantised(levels, block)
    stored: Stored = {
        "line.w": (TensorProto.INT8, whole.shape, whole),
        "line.s": (TensorProto.FLOAT, scales.shape, scales),
    }
    names, attributes = ["line.w", "line.s"], {"axis": 1} if block is None else {"axis": 0, "block_size": block}
    if block is None:
        stored["line.z"] = (TensorProto.INT8, (CHANNELS,), np.zeros(CHANNELS, np.int8))
        names.append("line.z")
    node = helper.make_node("DequantizeLinear", names, ["weight"], **attributes)
    seen = np.clip(np.rint(INPUT / STEP), -128, 127) * STEP if quantised_input else INPUT
    return [node, *_product("weight", quantised_input)], stored, seen @ meant, 20 if block is None else 21


def _int4(block: int) -> tuple[list, Stored, Floats, int]:
    whole, scales, meant = _quantised(7, block)
    nibbles = whole.reshape(-1).astype(np.uint8) & 15
    packed = nibbles[0::2] | nibbles[1::2] << 4  # ONNX: the first of a pair in the low bits
    stored: Stored = {
        "line.w": (TensorProto.INT4, whole.shape, packed),
        "line.s": (TensorProto.FLOAT, scales.shape, scales),
    }
    node = helper.make_node("DequantizeLinear", ["line.w", "line.s"], ["weight"], axis=0, block_size=block)
    return [node, *_product("weight")], stored, INPUT @ meant, 21


def _half(kind: int, dtype: type[np.generic]) -> tuple[list, Stored, Floats, int]:
    weight = WEIGHT.astype(dtype)
    cast = helper.make_node("Cast", ["line.w"], ["weight"], to=TensorProto.FLOAT)
    stored: Stored = {"line.w": (kind, weight.shape, weight.view(np.uint16))}
    return [cast, *_product("weight")], stored, INPUT @ weight.astype(np.float32), 20


FORMATS: dict[str, Callable[[], tuple[list, Stored, Floats, int]]] = {
    "int8 W8A8": lambda: _int8(quantised_input=True),
    "int8 weights": lambda: _int8(quantised_input=False),
    "int8 weights in blocks": lambda: _int8(quantised_input=False, block=8),
    "int4 weights in blocks of 8": lambda: _int4(8),
    "int4 weights in blocks of 16": lambda: _int4(16),
    "float16": lambda: _half(TensorProto.FLOAT16, np.float16),
    "bfloat16": lambda: _half(TensorProto.BFLOAT16, ml_dtypes.bfloat16),
}


def _bundle(bundle: Bundle, nodes: list[onnx.NodeProto], stored: Stored, opset: int) -> Bundle:
    """The bundle with `line` made of these nodes and weights."""
    data = save({name: array.reshape(-1) for name, (_, _, array) in stored.items()})
    header, start = _places(data)
    weights = []
    for name, (kind, shape, _) in stored.items():
        begin, end = header[name]
        tensor = TensorProto(name=name, data_type=kind, dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in {"location": "line.safetensors", "offset": start + begin, "length": end - begin}.items():
            tensor.external_data.add(key=key, value=str(value))
        weights.append(tensor)
    step = [
        helper.make_tensor("step", TensorProto.FLOAT, [], [STEP]),
        helper.make_tensor("zero", TensorProto.INT8, [], [0]),
    ]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", CHANNELS]) for name in "xy"]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(nodes, "g", [value[0]], [value[1]], [*weights, *(t for t in step if t.name in used)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return replace_graph(bundle, "line", model.SerializeToString(), data)


def _places(data: bytes) -> tuple[dict[str, tuple[int, int]], int]:
    """Where tensors lie behind a safetensors header, and where that ends."""
    import json

    size = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + size])
    return {name: tuple(entry["data_offsets"]) for name, entry in entries.items() if name[0] != "_"}, 8 + size


def _run(bundle: Bundle) -> Floats:
    engine = next(
        made.engine for made in build_for(bundle, "cpu", backend="openvino") if made.engine.spec.graph == "line"
    )
    return open_on_processor(bundle, engine).run({"x": INPUT})["y"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_run_as_numpy_does(bundle: Bundle, name: str) -> None:
    nodes, stored, expected, opset = FORMATS[name]()
    np.testing.assert_allclose(_run(_bundle(bundle, nodes, stored, opset)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FORMATS)
def test_its_weights_stay_in_the_bundles_file(bundle: Bundle, name: str) -> None:
    nodes, stored, _, opset = FORMATS[name]()
    changed = _bundle(bundle, nodes, stored, opset)
    engine = next(
        made.engine for made in build_for(changed, "cpu", backend="openvino") if made.engine.spec.graph == "line"
    )
    with zipfile.ZipFile(engine_path(changed, engine)) as parts:
        assert len(parts.read(CONSTANTS)) < 128
        assert '"line.w"' in parts.read("weights.json").decode()


def test_where_products_of_8_bits_saturate_they_are_computed_in_float32(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes, stored, expected, opset = _int8(quantised_input=True)
    changed = _bundle(bundle, nodes, stored, opset)
    monkeypatch.setattr(openvino_session, "saturates", lambda: True)
    np.testing.assert_allclose(_run(changed), expected, rtol=1e-4, atol=1e-4)


def test_whether_they_saturate_is_what_the_processors_flags_say() -> None:
    flags = Path("/proc/cpuinfo")
    if not flags.exists() or "vendor_id" not in flags.read_text():
        pytest.skip("no x86 processor that tells its flags")
    has_vnni = bool({"avx512_vnni", "avx_vnni"} & set(flags.read_text().split()))
    assert saturates() is not has_vnni


def test_weights_of_7_bits_need_no_such_care(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, stored, expected, opset = _int8(quantised_input=True, levels=63)
    monkeypatch.setattr(openvino_session, "saturates", lambda: False)
    np.testing.assert_allclose(_run(_bundle(bundle, nodes, stored, opset)), expected, rtol=1e-4, atol=1e-4)
