"""A graph put together from its stages: equal stages are traced once, and each gets its own weights.

A 24-block denoiser has three kinds of block, so it costs three tracings. The graph names its nodes and
weights after the modules they come from, and holds nothing of the machine it was made on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnx_ir.tensor_adapters import TorchTensor
from torch import Tensor

from unipic2_edge.runtime.files import write_bytes

from .graph_specs import GraphSpec, Stage
from .tracing import OPSET, Template, structure_of, tensors_of, trace
from .weights import EXTERNAL_FROM

IR_VERSION = 10  # the newest that JetPack 6's TensorRT 10.3 and ONNX Runtime 1.18 read


def assemble(spec: GraphSpec) -> ir.Model:
    """Trace a graph; its initialisers still point at the module's own tensors."""
    assembly = _Assembly(spec)
    templates: dict[str, Template] = {}
    for stage in spec.stages:
        structure = structure_of(stage)
        if structure not in templates:
            templates[structure] = trace(stage)
        assembly.add(stage, templates[structure])
    return assembly.finish()


@dataclass(frozen=True)
class _Weight:
    """An initialiser that is a tensor of the module, or a transposed view of one."""

    value: ir.Value
    tensor: Tensor


class _Assembly:
    """The graph as it grows: which value has which name by now."""

    def __init__(self, spec: GraphSpec) -> None:
        self.spec = spec
        self.values = {tensor.name: _value(tensor.name, tensor.dtype, tensor.shape) for tensor in spec.inputs}
        self.inputs = list(self.values.values())
        self.nodes: list[ir.Node] = []
        self.weights: dict[str, _Weight] = {}
        self.constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def add(self, stage: Stage, template: Template) -> None:
        """Append a template's nodes, fed with the stage's values and weights."""
        own = tensors_of(stage.module)
        known: dict[ir.Value, ir.Value] = {}
        names = iter([tensor.name for tensor in stage.inputs])
        places = iter(template.weights)
        for index, value in enumerate(template.graph.inputs):
            if index < len(stage.inputs):
                known[value] = self.values[next(names)]
            else:
                name = next(places)
                known[value] = self._weight(_join(self.spec.name, stage.path, name), own[name])
        for value in template.graph.initializers.values():
            known[value] = self._constant(value)
        for node in template.graph:
            self._add_node(stage.path, node, known)
        for tensor, value in zip(stage.outputs, template.graph.outputs, strict=True):
            self.values[tensor.name] = known[value]

    def _add_node(self, path: str, node: ir.Node, known: dict[ir.Value, ir.Value]) -> None:
        folded = self._transposed(node, known)
        if folded is not None:
            known[node.outputs[0]] = folded
            return
        copy = ir.Node(
            node.domain,
            node.op_type,
            [None if value is None else known[value] for value in node.inputs],
            list(node.attributes.values()),
            num_outputs=len(node.outputs),
            name=_join(path, node.name or node.op_type),
        )
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name, new.type = _join(path, old.name or "value"), old.type
            known[old] = new
        self.nodes.append(copy)

    def _transposed(self, node: ir.Node, known: dict[ir.Value, ir.Value]) -> ir.Value | None:
        """A weight's transposition as a weight: a view now, and a copy only while it is being written."""
        if node.op_type != "Transpose" or node.inputs[0] is None:
            return None
        weight = self.weights.get(known[node.inputs[0]].name or "")
        if weight is None:
            return None
        permutation = node.attributes["perm"].as_ints()
        return self._weight(f"{weight.value.name}.transposed", weight.tensor.permute(*permutation))

    def _weight(self, name: str, tensor: Tensor) -> ir.Value:
        if name not in self.weights:
            adapter = TorchTensor(tensor, name=name)
            value = ir.Value(name=name, shape=adapter.shape, type=ir.TensorType(adapter.dtype), const_value=adapter)
            self.weights[name] = _Weight(value, tensor)
        return self.weights[name].value

    def _constant(self, old: ir.Value) -> ir.Value:
        """A constant of a template, kept once however many stages use it."""
        if old.const_value is None:
            raise RuntimeError(f"the traced constant {old.name} has no value")
        array = old.const_value.numpy()
        key = (str(old.dtype), array.shape, array.tobytes())
        if key not in self.constants:
            name = f"{self.spec.name}.constant.{len(self.constants)}"
            tensor = ir.Tensor(array, dtype=old.const_value.dtype, name=name)
            kind = ir.TensorType(tensor.dtype)
            self.constants[key] = ir.Value(name=name, shape=tensor.shape, type=kind, const_value=tensor)
        return self.constants[key]

    def finish(self) -> ir.Model:
        """The graph with the spec's outputs, without what nobody uses."""
        outputs = [self.values[tensor.name] for tensor in self.spec.outputs]
        for value, tensor in zip(outputs, self.spec.outputs, strict=True):
            value.name, value.shape = tensor.name, ir.Shape(tensor.shape)
            value.type = ir.TensorType(_dtype(tensor.dtype))
        constants = [*(weight.value for weight in self.weights.values()), *self.constants.values()]
        graph = ir.Graph(
            self.inputs,
            outputs,
            nodes=self.nodes,
            initializers=constants,
            opset_imports={"": OPSET},
            name=self.spec.name,
        )
        model = ir.Model(graph, ir_version=IR_VERSION, producer_name="unipic2-edge")
        passes.RemoveUnusedNodesPass()(model)
        passes.NameFixPass()(model)
        return model


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _value(name: str, dtype: str, shape: tuple[int | str, ...]) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(_dtype(dtype)))


def _dtype(name: str) -> ir.DataType:
    """ONNX's name of one of numpy's."""
    return {"float32": ir.DataType.FLOAT}.get(name) or ir.DataType[name.upper()]


def weights_of(model: ir.Model) -> dict[str, ir.Tensor[Any]]:
    """The initialisers that belong in the weights file, by name."""
    return {
        name: value.const_value
        for name, value in model.graph.initializers.items()
        if isinstance(value.const_value, ir.Tensor) and value.const_value.nbytes >= EXTERNAL_FROM
    }


def write_graph(path: Path, model: ir.Model, location: str, places: Mapping[str, tuple[int, int]]) -> None:
    """Write the graph with its weights as external data in the file named `location` (a bare file name).

    Raises:
        OutputError, WorkError: the file cannot be written.
    """
    for name, tensor in weights_of(model).items():
        offset, length = places[name]
        model.graph.initializers[name].const_value = ir.ExternalTensor(
            location, offset, length, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
        )
    write_bytes(path, ir.to_proto(model).SerializeToString(deterministic=True))
