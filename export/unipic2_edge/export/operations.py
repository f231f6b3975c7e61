"""How many operations one node of a graph is: the house's one counter.

A multiply-add is two operations. Matrix work (products, convolutions, attention) is exact; of the rest, every output
element is one operation, but for the operators below, whose factors count the passes of the textbook form: softmax
is a maximum, a difference, an exponential, a sum and a quotient. What only moves numbers is none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

from onnx import NodeProto

from .graph_shapes import Value

Values = Mapping[str, Value]

#: Operators that change no number and need no memory of their own.
VIEWS = frozenset(
    ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape", "Size", "Constant", "ConstantOfShape", "Range")
)
#: Operators that copy numbers and compute none.
_LAYOUT = ("Transpose", "Concat", "Split", "Expand", "Tile", "Pad", "Resize", "DepthToSpace", "SpaceToDepth")
_CHOICE = ("Slice", "Gather", "GatherND", "GatherElements", "ScatterND", "TensorScatter")
MOVES = frozenset((*_LAYOUT, *_CHOICE, "Cast", "CastLike"))
_PER_OUTPUT = {
    "Softmax": 5,
    "LayerNormalization": 7,
    "InstanceNormalization": 7,
    "GroupNormalization": 7,
    "RMSNormalization": 4,
    "Gelu": 5,
    "QuantizeLinear": 3,  # scale, round, clamp
}


def matrix_operations(node: NodeProto, values: Values) -> int | None:
    """Operations of a product, a convolution or an attention; None for other nodes.

    Raises:
        KeyError: the shape of one of its values is unknown.
    """
    count = _MATRIX.get(node.op_type)
    return None if count is None else count(node, values)


def other_operations(node: NodeProto, values: Values) -> int:
    """Operations of any other node.

    Raises:
        KeyError: the shape of one of its values is unknown.
    """
    if node.op_type in VIEWS or node.op_type in MOVES:
        return 0
    if node.op_type.startswith(("Reduce", "Arg", "CumSum")):
        return values[node.input[0]].size
    return _PER_OUTPUT.get(node.op_type, 1) * values[node.output[0]].size


def _product(node: NodeProto, values: Values) -> int:
    """[.., M, K] · [K, N]: 2·M·K·N."""
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    depth = values[node.input[0]].shape[0 if transposed else -1]
    return 2 * values[node.output[0]].size * depth


def _convolution(node: NodeProto, values: Values) -> int:
    """Each output element sums over the kernel and its group's input channels: weight [O, I/groups, kernel…]."""
    return 2 * values[node.output[0]].size * prod(values[node.input[1]].shape[1:])


def _transposed_convolution(node: NodeProto, values: Values) -> int:
    """Each input element reaches the kernel of its group's output channels: weight [I, O/groups, kernel…]."""
    return 2 * values[node.input[0]].size * prod(values[node.input[1]].shape[1:])


def _attention(node: NodeProto, values: Values) -> int:
    """Scores and mixture, query by key: 2·L·(queries + outputs), L keys with those of the past. No mask halves it."""
    length = values[node.input[1]].shape[-2]
    if len(node.input) > 4 and node.input[4]:
        length += values[node.input[4]].shape[-2]
    return 2 * length * (values[node.input[0]].size + values[node.output[0]].size)


_MATRIX: dict[str, Callable[[NodeProto, Values], int]] = {
    "MatMul": _product,
    "Gemm": _product,
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Attention": _attention,
}
