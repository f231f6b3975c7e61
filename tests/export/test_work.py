"""Operations and bytes of hand-made graphs, held against sums done by hand."""

from __future__ import annotations

import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper

from unipic2_edge.export.work import Work, count_work

BATCH, TOKENS, WIDTH = 2, 7, 16


def _model(
    nodes: list[NodeProto], inputs: dict[str, list[object]], weights: dict[str, tuple[int, ...]], kind: int
) -> ModelProto:
    initializers = [
        helper.make_tensor(name, kind, shape, b"\0" * (_count(shape) * (4 if kind == TensorProto.FLOAT else 2)), True)
        for name, shape in weights.items()
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("out", kind, None)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


@pytest.fixture
def layer() -> ModelProto:
    """x·W1 + b, gelu, ·W2, softmax: tokens are dynamic, and a shape is computed on the way."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["wide"]),
        helper.make_node("Add", ["wide", "b"], ["sum"]),
        helper.make_node("Gelu", ["sum"], ["active"]),
        helper.make_node("MatMul", ["active", "w2"], ["narrow"]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Reshape", ["narrow", "shape"], ["shaped"]),
        helper.make_node("Softmax", ["shaped"], ["out"]),
    ]
    weights = {"w1": (WIDTH, 4 * WIDTH), "b": (4 * WIDTH,), "w2": (4 * WIDTH, WIDTH)}
    return _model(nodes, {"x": ["batch", "tokens", WIDTH]}, weights, TensorProto.FLOAT)


def _counted(model: ModelProto) -> Work:
    return count_work(model, {"batch": BATCH, "tokens": TOKENS})


def test_a_layer_is_what_it_is_by_hand(layer: ModelProto) -> None:
    found = _counted(layer)
    rows, wide = BATCH * TOKENS, 4 * WIDTH
    assert found.matrix == {"float32": 2 * rows * WIDTH * wide + 2 * rows * wide * WIDTH}
    assert found.other == rows * wide + 5 * rows * wide + 5 * rows * WIDTH  # add, gelu, softmax
    assert found.weights == 4 * (WIDTH * wide + wide + wide * WIDTH)
    assert found.border == 4 * (rows * WIDTH + rows * WIDTH)
    # x read, wide written; wide, sum read and written twice; active read, narrow written; narrow read, out written
    assert found.nodes == 4 * rows * (WIDTH + wide + 2 * wide + 2 * wide + wide + WIDTH + WIDTH + WIDTH)
    assert found.least_bytes == found.weights + found.border
    assert found.most_bytes == found.weights + found.nodes
    assert found.outputs == {"out": (BATCH, TOKENS, WIDTH)}
    assert found.unknown == {}


def test_twice_the_tokens_are_twice_the_operations_and_the_same_weights(layer: ModelProto) -> None:
    once, twice = _counted(layer), count_work(layer, {"batch": BATCH, "tokens": 2 * TOKENS})
    assert twice.operations == 2 * once.operations
    assert twice.weights == once.weights


def test_a_dimension_without_a_value_is_named(layer: ModelProto) -> None:
    with pytest.raises(KeyError, match="tokens"):
        count_work(layer, {"batch": BATCH})


def test_attention_counts_scores_and_mixture_with_the_past() -> None:
    heads, width, past = 4, 8, 5
    nodes = [helper.make_node("Attention", ["q", "k", "v", "", "pk", "pv"], ["out", "present_k", "present_v"])]
    query = [BATCH, heads, "tokens", width]
    cached = [BATCH, heads, past, width]
    model = _model(nodes, {"q": query, "k": query, "v": query, "pk": cached, "pv": cached}, {}, TensorProto.FLOAT16)
    by_hand = 2 * (2 * BATCH * heads * TOKENS * (TOKENS + past) * width)
    assert _counted(model).matrix == {"float16": by_hand}


def test_a_convolution_sums_over_its_kernel_and_group() -> None:
    node = helper.make_node(
        "Conv", ["x", "w"], ["out"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2], group=2
    )
    model = _model([node], {"x": ["batch", 6, 8, 10]}, {"w": (4, 3, 3, 3)}, TensorProto.BFLOAT16)
    found = _counted(model)
    assert found.matrix == {"bfloat16": 2 * (BATCH * 4 * 4 * 5) * (3 * 3 * 3)}
    assert found.weights == 2 * 4 * 3 * 3 * 3


def test_of_a_table_only_the_rows_are_read() -> None:
    node = helper.make_node("Gather", ["table", "ids"], ["out"])
    model = _model([node], {}, {"table": (1000, WIDTH)}, TensorProto.FLOAT)
    model.graph.input.append(helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "tokens"]))
    found = _counted(model)
    assert found.weights == 4 * BATCH * TOKENS * WIDTH
    assert found.operations == 0


def test_a_quantised_product_counts_in_its_format_and_reads_its_codes() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["rounded"]),
        helper.make_node("DequantizeLinear", ["w", "scale"], ["weight"]),
        helper.make_node("MatMul", ["rounded", "weight"], ["out"]),
    ]
    model = _model(nodes, {"x": ["batch", "tokens", WIDTH]}, {"scale": ()}, TensorProto.FLOAT)
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.INT8, (WIDTH, 32), b"\0" * (WIDTH * 32), True))
    model.graph.initializer.append(helper.make_tensor("zero", TensorProto.INT8, (), b"\0", True))
    found = _counted(model)
    assert found.matrix == {"int8": 2 * BATCH * TOKENS * WIDTH * 32}
    assert found.weights == WIDTH * 32 + 4 + 1
    assert found.other == (3 + 1) * BATCH * TOKENS * WIDTH
