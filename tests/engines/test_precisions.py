"""The table of precisions against the compiler: TensorRT-RTX takes what the table says, and refuses the rest.

No card is needed. Sixteen- and 32-bit graphs are a block of attention; quantised ones a product with the weights
(and, for int8 and fp8, the activations) behind QuantizeLinear and DequantizeLinear, all of it at ONNX opset 23.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, checker, helper

from unipic2_edge.engines.targets import TARGETS, find_target

tensorrt_rtx = pytest.importorskip("tensorrt_rtx")

WIDTH = 128
#: Compute capability → the target whose row it must keep to. The table has no TensorRT-RTX row for 12.1, as there
#: is no package for its processor; the compiler treats it as 12.0.
CAPABILITIES = {
    **{target.capability: name for name, target in TARGETS.items() if "tensorrt_rtx" in target.backends},
    "12.1": "rtx-50",
}
ELEMENTS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
QUANTISED = {
    "int8": TensorProto.INT8,
    "fp8": TensorProto.FLOAT8E4M3FN,
    "int4": TensorProto.INT4,
    "nvfp4": TensorProto.FLOAT4E2M1,
}
BLOCKS = {"int4": 64, "nvfp4": 16}


def _tensor(name: str, element: int, values: np.ndarray) -> TensorProto:
    return helper.make_tensor(name, element, values.shape, values.ravel().tolist())


def _model(nodes: list[NodeProto], weights: list[TensorProto], element: int) -> bytes:
    """`nodes` compute `out` from `in`, both of `element`; the model's borders are float32 all the same."""
    shape = ["batch", "tokens", WIDTH]
    borders = [
        helper.make_node("Cast", ["x"], ["in"], to=element),
        *nodes,
        helper.make_node("Cast", ["out"], ["y"], to=TensorProto.FLOAT),
    ]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph(borders, "graph", [value[0]], [value[1]], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def _attention(precision: str) -> bytes:
    """LayerNormalization, one head of attention, its projection, the residual sum."""
    element, rng = ELEMENTS[precision], np.random.default_rng(0)
    matrices = [_tensor(name, element, 0.1 * rng.standard_normal((WIDTH, WIDTH))) for name in "qkvo"]
    vectors = [_tensor("gain", element, np.ones(WIDTH)), _tensor("bias", element, np.zeros(WIDTH))]
    nodes = [
        helper.make_node("LayerNormalization", ["in", "gain", "bias"], ["norm"], axis=-1),
        *(helper.make_node("MatMul", ["norm", name], [f"{name}_rows"]) for name in "qkv"),
        helper.make_node("Transpose", ["k_rows"], ["k_columns"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q_rows", "k_columns"], ["products"]),
        helper.make_node("Mul", ["products", "scale"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "v_rows"], ["mixed"]),
        helper.make_node("MatMul", ["mixed", "o"], ["projected"]),
        helper.make_node("Add", ["in", "projected"], ["out"]),
    ]
    return _model(nodes, [*matrices, *vectors, _tensor("scale", element, np.array(WIDTH**-0.5))], element)


def _quantised(precision: str) -> bytes:
    """One product in float16 whose weights are stored in a quantised format."""
    element, half, rng = QUANTISED[precision], TensorProto.FLOAT16, np.random.default_rng(0)
    weights = [_tensor("w", element, rng.integers(-4, 5, (WIDTH, WIDTH)).astype(np.float32))]
    if precision in BLOCKS:
        nodes, scales = _block_weights(precision)
        product = ["in", "weights"]
    else:
        nodes = [
            helper.make_node("DequantizeLinear", ["w", "w_scale"], ["weights"]),
            helper.make_node("QuantizeLinear", ["in", "in_scale", "zero"], ["quantised"]),
            helper.make_node("DequantizeLinear", ["quantised", "in_scale"], ["rounded"]),
        ]
        scales = [_tensor(name, half, np.array(0.02)) for name in ("w_scale", "in_scale")]
        scales.append(_tensor("zero", element, np.array(0.0)))
        product = ["rounded", "weights"]
    return _model([*nodes, helper.make_node("MatMul", product, ["out"])], [*weights, *scales], half)


def _block_weights(precision: str) -> tuple[list[NodeProto], list[TensorProto]]:
    """Dequantisation in blocks along the product's inner side; nvfp4's scales are fp8, with one of their own."""
    block, scales = BLOCKS[precision], np.full((WIDTH // BLOCKS[precision], WIDTH), 0.25)
    node = helper.make_node("DequantizeLinear", ["w", "scales"], ["weights"], axis=0, block_size=block)
    if precision == "int4":
        return [node], [_tensor("scales", TensorProto.FLOAT16, scales)]
    coarse = helper.make_node("DequantizeLinear", ["block_scales", "scale"], ["scales"])
    tensors = [
        _tensor("block_scales", TensorProto.FLOAT8E4M3FN, scales),
        _tensor("scale", TensorProto.FLOAT16, np.array(0.1)),
    ]
    return [coarse, node], tensors


class _Log(tensorrt_rtx.ILogger):  # type: ignore[misc]
    def __init__(self) -> None:
        tensorrt_rtx.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        if severity <= tensorrt_rtx.ILogger.ERROR:
            self.errors.append(message)


def _refusal(model: bytes, capability: str) -> str | None:
    """Compile a model for one compute capability: none when there is a plan, else what the compiler said."""
    log = _Log()
    builder = tensorrt_rtx.Builder(log)
    network = builder.create_network(1 << int(tensorrt_rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt_rtx.OnnxParser(network, log)
    assert parser.parse(model), parser.get_error(0).desc()
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(tensorrt_rtx.ComputeCapability, f"SM{capability.replace('.', '')}"), 0)
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1, 1, WIDTH), (2, 64, WIDTH), (2, 256, WIDTH))
    config.add_optimization_profile(profile)
    if builder.build_serialized_network(network, config) is not None:
        return None
    return log.errors[0]


def test_every_compute_capability_of_the_compiler_is_in_the_table() -> None:
    known = {name[2:] for name in tensorrt_rtx.ComputeCapability.__members__ if name.startswith("SM")}
    assert {capability.replace(".", "") for capability in CAPABILITIES} == known


@pytest.mark.slow
@pytest.mark.parametrize("precision", [*ELEMENTS, *QUANTISED])
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_compiler_takes_what_the_table_says_and_refuses_the_rest(capability: str, precision: str) -> None:
    model = _attention(precision) if precision in ELEMENTS else _quantised(precision)
    refusal = _refusal(model, capability)
    if precision in find_target(CAPABILITIES[capability]).precisions_of("tensorrt_rtx"):
        assert refusal is None
    else:
        assert refusal is not None
        assert "Turing" in refusal or "HW-specific datatypes" in refusal
