"""The work of one call of a graph: operations and bytes, counted on the ONNX file as it was written.

Operations: matrix work by the format it runs in, and all the rest together (see `operations`). Bytes: the weights as
they are stored, what crosses the graph's border, and what its nodes would read and write if none were fused.
Weights and border are the least that memory must move, weights and nodes the most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx
from onnx import ModelProto, NodeProto

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.errors import BundleError

from .graph_shapes import Shape, Value, infer_values
from .operands import Operands
from .operations import VIEWS, matrix_operations, other_operations

_NAMES = {"FLOAT": "float32", "DOUBLE": "float64"}  # else ONNX's name is numpy's
_PARTIAL_READS = ("Gather", "GatherND", "GatherElements", "Slice")


@dataclass(frozen=True)
class Work:
    """What one call of a graph computes and moves.

    Attributes:
        matrix: operations of products, convolutions and attention, by the format they run in: that of both sides where
            both are quantised, else the type of the result.
        other: operations of everything else.
        weights: bytes of the weights that are read, as stored; of a table that is looked up in, the rows.
        border: bytes of the graph's inputs and outputs.
        nodes: bytes that all nodes read and write but for weights, were none fused with another.
        unknown: nodes by operator that could not be counted because a shape is unknown.
        outputs: the shapes of the graph's outputs, where known.
    """

    matrix: dict[str, int]
    other: int
    weights: int
    border: int
    nodes: int
    unknown: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, Shape] = field(default_factory=dict)

    @property
    def operations(self) -> int:
        """All operations."""
        return sum(self.matrix.values()) + self.other

    @property
    def least_bytes(self) -> int:
        """What memory must move when everything between the border is fused or stays in caches."""
        return self.weights + self.border

    @property
    def most_bytes(self) -> int:
        """What memory moves when no node is fused and no cache helps."""
        return self.weights + max(self.nodes, self.border)


def graph_work(bundle: Bundle, graph: str, extents: Mapping[str, int]) -> Work:
    """The work of one call of a bundle's graph with these values of its named dimensions.

    Raises:
        BundleError: the graph is missing or damaged, has other dimensions, or its matrix work cannot be counted.
    """
    model = onnx.load(bundle.path(bundle.graph(graph).file), load_external_data=False)
    try:
        return count_work(model, extents)
    except KeyError as missing:
        raise BundleError(f"the shape of {missing} in {graph} is unknown", "export the checkpoint again") from None


def count_work(model: ModelProto, extents: Mapping[str, int]) -> Work:
    """The work of one call of a graph.

    Raises:
        KeyError: a dimension's value is missing, or the shape of some matrix work is unknown.
    """
    values, computed = infer_values(model, extents)
    weights = {tensor.name for tensor in model.graph.initializer}
    matrix = _matrix(model, values)
    other, nodes, unknown = 0, 0, dict[str, int]()
    for node in model.graph.node:
        if computed.isdisjoint(node.output):
            continue
        try:
            if matrix_operations(node, values) is None:
                other += 0 if _dequantises_weight(node, weights) else other_operations(node, values)
            nodes += _moved(node, values, weights)
        except KeyError:
            unknown[node.op_type] = unknown.get(node.op_type, 0) + 1
    named = [value.name for value in (*model.graph.input, *model.graph.output)]
    return Work(
        matrix=matrix,
        other=other,
        weights=_weight_bytes(model, values),
        border=sum(values[name].bytes for name in named if name in values and name not in weights),
        nodes=nodes,
        unknown=unknown,
        outputs={value.name: values[value.name].shape for value in model.graph.output if value.name in values},
    )


def _matrix(model: ModelProto, values: Mapping[str, Value]) -> dict[str, int]:
    operands = Operands(model)
    found: dict[str, int] = {}
    for node in model.graph.node:
        count = matrix_operations(node, values)
        if count is not None:
            name = _format(node, operands, values)
            found[name] = found.get(name, 0) + count
    return found


def _format(node: NodeProto, operands: Operands, values: Mapping[str, Value]) -> str:
    sides = {operands.format(side) for side in node.input[:2]}
    both = sides.pop() if len(sides) == 1 else None
    kind = values[node.output[0]].type or values[node.input[0]].type
    return both or ("float32" if kind is None else _NAMES.get(kind.name, kind.name.lower()))


def _weight_bytes(model: ModelProto, values: Mapping[str, Value]) -> int:
    readers: dict[str, list[NodeProto]] = {tensor.name: [] for tensor in model.graph.initializer}
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            if name in readers:
                readers[name].append(node)
    total = 0
    for name, nodes in readers.items():
        looked_up = bool(nodes) and all(node.op_type in _PARTIAL_READS and node.input[0] == name for node in nodes)
        rows = [values[node.output[0]].bytes for node in nodes if node.output[0] in values] if looked_up else []
        total += min(values[name].bytes, sum(rows)) if rows else values[name].bytes if nodes else 0
    return total


def _dequantises_weight(node: NodeProto, weights: set[str]) -> bool:
    """Weights are dequantised inside the product: a stored scale makes it no work of its own."""
    return node.op_type == "DequantizeLinear" and node.input[0] in weights


def _moved(node: NodeProto, values: Mapping[str, Value], weights: set[str]) -> int:
    """Bytes that a node reads and writes, without weights."""
    if node.op_type in VIEWS or _dequantises_weight(node, weights):
        return 0
    written = sum(values[name].bytes for name in node.output if name)
    if node.op_type in _PARTIAL_READS:
        return 2 * written
    return written + sum(values[name].bytes for name in dict.fromkeys(node.input) if name and name not in weights)
