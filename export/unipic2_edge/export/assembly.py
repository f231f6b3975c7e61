"""A graph put together from its stages: equal stages are traced once, and each gets its own weights.

A 24-block denoiser has three kinds of block, so it costs three tracings. The graph names its nodes and
weights after the modules they come from, and holds nothing of the machine it was made on. Where the spec's
inputs and outputs have another type than the stages', it casts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnx_ir.tensor_adapters import TorchTensor
from torch import Tensor

from unipic2_edge.runtime.bundle import TensorSpec
from unipic2_edge.runtime.files import write_bytes

from .graph_specs import OPSET, GraphSpec, Stage
from .portions import Portions, tensors_of
from .tracing import Template, structure_of, trace
from .weights import EXTERNAL_FROM

IR_VERSION = 10  # the newest that JetPack 6's TensorRT 10.3 and ONNX Runtime 1.18 read
_NEWER_IR_VERSION = 12  # what graphs need that have operators of opset 24


def assemble(spec: GraphSpec) -> ir.Model:
    """Trace a graph; its initialisers are read when they are written."""
    assembly = _Assembly(spec)
    templates: dict[str, Template] = {}
    for stage in spec.stages:
        structure = structure_of(stage)
        if structure not in templates:
            templates[structure] = trace(stage, spec.opset)
        assembly.add(stage, templates[structure])
    return assembly.finish()


@dataclass(frozen=True)
class _Weight:
    """An initialiser that is a tensor of a stage's module, or a transposed view of one."""

    value: ir.Value
    tensor: Tensor  # may be without memory
    read: Callable[[], Tensor]


class _Assembly:
    """The graph as it grows: which value has which name by now."""

    def __init__(self, spec: GraphSpec) -> None:
        self.spec = spec
        self.values = {tensor.name: _value(tensor.name, tensor.dtype, tensor.shape) for tensor in spec.inputs}
        self.inputs = list(self.values.values())
        self.nodes: list[ir.Node] = []
        self.weights: dict[str, _Weight] = {}
        self.constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self.portions = Portions()

    def add(self, stage: Stage, template: Template) -> None:
        """Append a template's nodes, fed with the stage's values and weights."""
        own = tensors_of(stage.module)
        known: dict[ir.Value, ir.Value] = {}
        inputs, weights = template.graph.inputs[: len(stage.inputs)], template.graph.inputs[len(stage.inputs) :]
        for value, tensor in zip(inputs, stage.inputs, strict=True):
            known[value] = self._as(tensor)
        for value, name in zip(weights, template.weights, strict=True):
            read = partial(self.portions.tensor, *stage.load_of(name))
            known[value] = self._weight(_join(self.spec.prefix, stage.path, name), own[name], read)
        for value in template.graph.initializers.values():
            known[value] = self._constant(value)
        for node in template.graph:
            self._add_node(stage.path, node, known)
        for tensor, value in zip(stage.outputs, template.graph.outputs, strict=True):
            self.values[tensor.name] = known[value]

    def _as(self, tensor: TensorSpec) -> ir.Value:
        """A value in the type that it is asked for; a cast one takes its place."""
        value, dtype = self.values[tensor.name], _dtype(tensor.dtype)
        if value.dtype != dtype:
            name = f"{value.name}.{tensor.dtype}"
            cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", dtype)], name=name)
            cast.outputs[0].name, cast.outputs[0].type = name, ir.TensorType(dtype)
            self.nodes.append(cast)
            self.values[tensor.name] = cast.outputs[0]
        return self.values[tensor.name]

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
        name, read = f"{weight.value.name}.transposed", weight.read
        # torch copies a transposed matrix faster than numpy
        return self._weight(
            name, weight.tensor.permute(*permutation), lambda: read().permute(*permutation).contiguous()
        )

    def _weight(self, name: str, tensor: Tensor, read: Callable[[], Tensor]) -> ir.Value:
        if name not in self.weights:
            adapter = TorchTensor(tensor)
            lazy = ir.LazyTensor(lambda: TorchTensor(read(), name=name), adapter.dtype, adapter.shape, name=name)
            value = ir.Value(name=name, shape=lazy.shape, type=ir.TensorType(lazy.dtype), const_value=lazy)
            self.weights[name] = _Weight(value, tensor, read)
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
        outputs = [self._as(tensor) for tensor in self.spec.outputs]
        for value, tensor in zip(outputs, self.spec.outputs, strict=True):
            value.name, value.shape = tensor.name, ir.Shape(tensor.shape)
            value.type = ir.TensorType(_dtype(tensor.dtype))
        constants = [*(weight.value for weight in self.weights.values()), *self.constants.values()]
        graph = ir.Graph(
            self.inputs,
            outputs,
            nodes=self.nodes,
            initializers=constants,
            opset_imports={"": self.spec.opset},
            name=self.spec.name,
        )
        version = IR_VERSION if self.spec.opset == OPSET else _NEWER_IR_VERSION
        model = ir.Model(graph, ir_version=version, producer_name="unipic2-edge")
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


def weights_of(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """The initialisers that belong in the weights file, by name."""
    tensors = {name: value.const_value for name, value in model.graph.initializers.items()}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None and tensor.nbytes >= EXTERNAL_FROM}


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
