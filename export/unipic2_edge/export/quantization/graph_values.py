"""Values of a graph that quantisation adds: constants of types that torch lacks, and nodes with typed results."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor
from torch import Tensor

#: The element type of each format's codes.
CODES = {
    "int8": ir.DataType.INT8,
    "fp8": ir.DataType.FLOAT8E4M3FN,
    "int4": ir.DataType.INT4,
    "nvfp4": ir.DataType.FLOAT4E2M1,
}


def typed(tensor: Tensor, dtype: ir.DataType, shape: tuple[int, ...], name: str) -> ir.TensorProtocol:
    """A torch tensor as an ONNX tensor of a dtype that torch may not have."""
    if dtype in (ir.DataType.INT4, ir.DataType.FLOAT4E2M1):
        return ir.PackedTensor(_packed(tensor), dtype, shape=ir.Shape(shape), name=name)
    if dtype == ir.DataType.FLOAT8E4M3FN:
        return TorchTensor(tensor if tensor.is_floating_point() else tensor.view(torch.float8_e4m3fn), name=name)
    return TorchTensor(tensor, name=name)


def _packed(codes: Tensor) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """4-bit codes two to a byte, the first in the lower half (ONNX)."""
    nibbles = codes.reshape(-1).view(torch.uint8) & 15
    if nibbles.numel() % 2:
        nibbles = torch.cat([nibbles, nibbles.new_zeros(1)])
    return (nibbles[0::2] | nibbles[1::2] << 4).numpy()


def insert(
    model: ir.Model, before: ir.Node, operator: str, inputs: list[ir.Value], name: str, dtype: ir.DataType | None
) -> ir.Value:
    """A node before another, and its result."""
    node = ir.Node("", operator, inputs, name=name)
    node.outputs[0].name = name
    node.outputs[0].type = None if dtype is None else ir.TensorType(dtype)
    model.graph.insert_before(before, node)
    return node.outputs[0]


def register(model: ir.Model, tensor: ir.TensorProtocol) -> ir.Value:
    """A tensor as an initialiser of the graph."""
    shape, kind = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
    value = ir.Value(name=tensor.name, shape=shape, type=kind, const_value=tensor)
    model.graph.register_initializer(value)
    return value
