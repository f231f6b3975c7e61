"""An ONNX graph of one matrix product, in float32 or in 8 bits: what a library can do at best."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

_OPSET = 20
_SCALE = 0.05


def one_product(size: int, name: str) -> ModelProto:
    """x [size, size] · W [size, size] with a constant W, in float32 or int8 (with Q/DQ, as exported)."""
    random = np.random.default_rng(0)
    values = random.standard_normal((size, size)).astype(np.float32)
    nodes, weights = _quantised(values) if name == "int8" else _plain(values)
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [size, size])],
        [numpy_helper.from_array(value, key) for key, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def _plain(values: NDArray[Any]) -> tuple[list[NodeProto], dict[str, NDArray[Any]]]:
    return [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": values}


def _quantised(values: NDArray[Any]) -> tuple[list[NodeProto], dict[str, NDArray[Any]]]:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["rounded"]),
        helper.make_node("DequantizeLinear", ["w", "scales", "zeros"], ["weight"], axis=1),
        helper.make_node("MatMul", ["rounded", "weight"], ["y"]),
    ]
    columns = values.shape[1]
    codes = np.clip(np.round(values / _SCALE), -127, 127).astype(np.int8)
    return nodes, {
        "w": codes,
        "scale": np.array(_SCALE, np.float32),
        "zero": np.array(0, np.int8),
        "scales": np.full(columns, _SCALE, np.float32),
        "zeros": np.zeros(columns, np.int8),
    }
