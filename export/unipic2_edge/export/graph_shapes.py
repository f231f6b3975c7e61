"""Shape and element size of every value of a graph, inferred for given extents of its named dimensions."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import onnx
import onnx_ir as ir
from onnx import ModelProto, NodeProto
from onnxscript import optimizer

DYNAMIC_QUANTIZE = "TRT_FP4DynamicQuantize"

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """A tensor of known shape; `type` is ONNX's, None where it could not be inferred."""

    shape: Shape
    type: ir.DataType | None

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """The bytes of all elements, two 4-bit ones in one byte; 0 where the type is unknown."""
        return 0 if self.type is None else -(-self.size * self.type.bitwidth // 8)


class Inferred(NamedTuple):
    """Values of known shape by name, weights included; and the names of all that is left to compute.

    What is not left was a computation with shapes, whose result is now a constant.
    """

    values: dict[str, Value]
    computed: frozenset[str]


def infer_values(model: ModelProto, extents: Mapping[str, int]) -> Inferred:
    """Every value of a graph, as far as its shape can be told.

    Raises:
        KeyError: a named dimension of an input is not among the extents.
    """
    begun = _infer(model, extents)
    outputs = [output for node in begun.graph for output in node.outputs]
    found = {
        value.name or "": Value(value.shape.numpy(), value.dtype)
        for value in (*begun.graph.inputs, *begun.graph.initializers.values(), *outputs)
        if value.shape is not None and value.shape.is_static()
    }
    stored = {
        tensor.name: Value(tuple(tensor.dims), ir.DataType(tensor.data_type)) for tensor in model.graph.initializer
    }
    return Inferred(found | stored, frozenset(value.name or "" for value in outputs))


def _infer(model: ModelProto, extents: Mapping[str, int]) -> ir.Model:
    model = copy.deepcopy(model)
    _drop_dynamic(model)
    del model.graph.value_info[:]
    for value in model.graph.input:
        for side in value.type.tensor_type.shape.dim:
            if side.dim_param:
                side.dim_value = extents[side.dim_param]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    begun = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model, data_prop=True))
    for initializer in begun.graph.initializers.values():
        if isinstance(initializer.const_value, ir.ExternalTensor):
            initializer.const_value = None  # its shape is enough, and its file stays closed
    # ONNX's own inference stops where a number of tokens is computed with; folding goes on from there.
    optimizer.fold_constants(begun, onnx_shape_inference=True)
    return begun


def _drop_dynamic(model: ModelProto) -> None:
    """TensorRT's quantisation of nvfp4 inputs, which ONNX cannot infer, out of the way: it keeps their shape."""
    sources = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == DYNAMIC_QUANTIZE}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in sources:
            rounded = NodeProto(op_type="Identity", name=node.name)
            rounded.input.append(sources[node.input[0]])
            rounded.output.append(node.output[0])
            node.CopyFrom(rounded)
