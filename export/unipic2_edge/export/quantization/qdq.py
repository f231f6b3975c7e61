"""Quantised layers in a graph, as standard QuantizeLinear and DequantizeLinear (ONNX), without tracing anew.

    x ─(Mul by 1/smoothing)─ Quantize ─ Dequantize ─┐
                        codes, scales ─ Dequantize ─┴─ MatMul

A weight's codes are found when they are written, so that one layer's weights are in memory at a time. The one operator
that is not ONNX's is TensorRT's for blocks of activations in nvfp4 (`trt::TRT_FP4DynamicQuantize`), which ONNX lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from ..weights import EXTERNAL_FROM
from .fake import ComponentPlan
from .formats import NVFP4_BLOCK
from .graph_values import CODES, register, typed
from .layers import LayerPlan, QuantizedLayer, quantize_layer
from .qdq_attention import quantize_attention

#: The opset in which a format's operators appeared; the others' meanings do not change on the way.
_OPSETS = {"int8": 20, "fp8": 20, "int4": 21, "nvfp4": 23}
_IR_VERSIONS = {"nvfp4": 11}
_TRANSPOSED = ".weight.transposed"
_TRT = "trt"


def layer_shapes(model: ir.Model) -> dict[str, tuple[int, int]]:
    """The layers of a graph that can be quantised, products with one weight matrix: name → (K, N)."""
    return {name: _shape(node) for node, name in _products(model)}


def quantize_graph(model: ir.Model, plan: ComponentPlan) -> set[str]:
    """Put a graph's planned layers and attention products into quantised form, in place; the names of those found."""
    latest, found = _Latest(), set()
    for node, name in list(_products(model)):
        if name in plan.layers:
            _LayerRewrite(model, node, plan.layers[name], latest).apply()
            found.add(name)
    found |= quantize_attention(model, plan.attention)
    if found:
        _raise_versions(model, plan.formats)
    return found


def _raise_versions(model: ir.Model, formats: tuple[str, ...]) -> None:
    """Declare the opset and file version that the formats need."""
    imports = model.graph.opset_imports
    imports[""] = max(imports[""] or 0, *(_OPSETS[name] for name in formats))
    model.ir_version = max(model.ir_version, *(_IR_VERSIONS.get(name, 0) for name in formats))
    if any(node.domain == _TRT for node in model.graph):
        imports[_TRT] = 1


def _products(model: ir.Model) -> Iterator[tuple[ir.Node, str]]:
    """The MatMuls with a weight, and the layers' names."""
    for node in model.graph:
        if node.op_type != "MatMul" or node.inputs[1] is None:
            continue
        name = node.inputs[1].name or ""
        if name in model.graph.initializers and name.endswith(_TRANSPOSED) and len(_dims(node.inputs[1])) == 2:
            yield node, name.removesuffix(_TRANSPOSED)


def _shape(node: ir.Node) -> tuple[int, int]:
    inputs, outputs = _dims(node.inputs[1])
    return inputs, outputs


def _dims(value: ir.Value | None) -> tuple[int, ...]:
    if value is None or value.const_value is None:
        raise RuntimeError("a weight without its tensor")  # a bug, not a user's mistake
    return tuple(value.const_value.shape.numpy())


class _Latest:
    """The layer that was quantised last, and every layer's small tensors: those are written later, with the graph."""

    def __init__(self) -> None:
        self._name = ""
        self._layer: QuantizedLayer | None = None
        self._small: dict[tuple[str, str], Tensor] = {}

    def tensor(self, plan: LayerPlan, part: str, read: Callable[[], Tensor]) -> Tensor:
        """One of a layer's tensors."""
        if (plan.name, part) in self._small:
            return self._small[plan.name, part]
        if self._layer is None or self._name != plan.name:
            self._layer = None
            self._layer, self._name = quantize_layer(read(), plan), plan.name
            self._small |= {
                (plan.name, key): tensor
                for key, tensor in _tensors(self._layer).items()
                if tensor.nbytes < EXTERNAL_FROM
            }
        return _tensors(self._layer)[part]


def _tensors(layer: QuantizedLayer) -> dict[str, Tensor]:
    tensors = {
        "weight.codes": layer.weight.codes,
        "weight.scales": layer.weight.scales,
        "weight.global_scale": layer.weight.global_scale,
        "weight.down": layer.down,
        "weight.up": layer.up,
    }
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


class _LayerRewrite:
    """One MatMul on its way into quantised form."""

    def __init__(self, model: ir.Model, node: ir.Node, plan: LayerPlan, latest: _Latest) -> None:
        self.model, self.graph, self.node, self.plan, self.latest = model, model.graph, node, plan, latest
        weight = node.inputs[1]
        if weight is None or weight.const_value is None:
            raise RuntimeError(f"{plan.name} has no weights")  # a bug, not a user's mistake
        self.weight, self.stored = weight, weight.const_value
        self.carrier = self.stored.dtype
        self.inputs, self.outputs = _shape(node)

    def apply(self) -> None:
        """Replace the product; the weights as they were go when nobody else reads them."""
        source = self.node.inputs[0]
        if source is None:
            raise RuntimeError(f"{self.plan.name} has no inputs")  # a bug, not a user's mistake
        smoothed = self._smooth(source)
        self.node.replace_input_with(0, self._round_inputs(smoothed))
        self.node.replace_input_with(1, self._weight())
        if self.plan.rule.rank:
            self._add_low_rank(smoothed)
        if not self.weight.uses():
            del self.graph.initializers[self.weight.name or ""]

    def _smooth(self, source: ir.Value) -> ir.Value:
        inverse = self.plan.inverse
        if inverse is None:
            return source
        return self._node("Mul", [source, self._constant("inputs.inverse", inverse)], source, "inputs.smoothed")

    def _round_inputs(self, states: ir.Value) -> ir.Value:
        kind, scale = self.plan.rule.activations, self.plan.input_scale
        if kind is None or scale is None:
            return states
        factor = self._constant("inputs.scale", scale)
        if kind == "nvfp4":
            return self._dynamic_blocks(states, factor)
        zero = self._constant("inputs.zero", torch.zeros((), dtype=torch.int8), CODES[kind])
        codes = self._node("QuantizeLinear", [states, factor, zero], states, "inputs.codes", CODES[kind])
        return self._node("DequantizeLinear", [codes, factor, zero], states, "inputs.rounded")

    def _dynamic_blocks(self, states: ir.Value, factor: ir.Value) -> ir.Value:
        attributes = [
            ir.AttrInt64("axis", -1),
            ir.AttrInt64("block_size", NVFP4_BLOCK),
            ir.AttrInt64("scale_type", ir.DataType.FLOAT8E4M3FN),
        ]
        node = ir.Node(
            _TRT, "TRT_FP4DynamicQuantize", [states, factor], attributes, num_outputs=2, name=self._name("inputs")
        )
        codes, scales = node.outputs
        codes.name, codes.type = self._name("inputs.codes"), ir.TensorType(ir.DataType.FLOAT4E2M1)
        scales.name, scales.type = self._name("inputs.block_codes"), ir.TensorType(ir.DataType.FLOAT8E4M3FN)
        self.graph.insert_before(self.node, node)
        wide = self._node("DequantizeLinear", [scales, factor], None, "inputs.block_scales")
        blocks = [ir.AttrInt64("axis", -1), ir.AttrInt64("block_size", NVFP4_BLOCK)]
        return self._node("DequantizeLinear", [codes, wide], states, "inputs.rounded", attributes=blocks)

    def _weight(self) -> ir.Value:
        kind = self.plan.rule.weights or ""
        shape, block = (self.inputs, self.outputs), self.plan.block
        codes = self._lazy("weight.codes", CODES[kind], shape)
        if block is None:
            values = [codes, self._lazy("weight.scales", self.carrier, (self.outputs,))]
            if kind == "int8":  # ONNX Runtime's transformers of 8-bit graphs make up a scalar one where there is none
                values.append(self._constant("weight.zero", torch.zeros(self.outputs, dtype=torch.int8), CODES[kind]))
            return self._dequantize(values, shape, ir.AttrInt64("axis", 1))
        blocks = (self.inputs // block, self.outputs)
        if kind == "nvfp4":
            narrow = self._lazy("weight.scales", ir.DataType.FLOAT8E4M3FN, blocks)
            scales = self._node(
                "DequantizeLinear",
                [narrow, self._lazy("weight.global_scale", self.carrier, ())],
                None,
                "weight.block_scales",
            )
            scales.shape = ir.Shape(blocks)
        else:
            scales = self._lazy("weight.scales", self.carrier, blocks)
        return self._dequantize([codes, scales], shape, ir.AttrInt64("axis", 0), ir.AttrInt64("block_size", block))

    def _dequantize(self, values: list[ir.Value], shape: tuple[int, int], *attributes: ir.Attr) -> ir.Value:
        made = self._node("DequantizeLinear", values, None, "weight.dequantized", attributes=list(attributes))
        made.shape = ir.Shape(shape)
        return made

    def _add_low_rank(self, smoothed: ir.Value) -> None:
        """y + x·down·up, the sum in the place of y."""
        rank = min(self.plan.rule.rank, self.inputs, self.outputs)
        down = self._lazy("weight.down", self.carrier, (self.inputs, rank))
        up = self._lazy("weight.up", self.carrier, (rank, self.outputs))
        made = self.node.outputs[0]
        narrow = self._node("MatMul", [smoothed, down], None, "low_rank.narrow")
        wide = self._node("MatMul", [narrow, up], made, "low_rank.wide")
        users = list(made.uses())
        total = ir.Node("", "Add", [made, wide], name=self._name("low_rank.sum"))
        total.outputs[0].name, total.outputs[0].type = self._name("low_rank.sum"), made.type
        total.outputs[0].shape = made.shape
        self.graph.insert_after(self.node, total)
        for user, index in users:
            user.replace_input_with(index, total.outputs[0])

    def _node(
        self,
        operator: str,
        inputs: list[ir.Value],
        like: ir.Value | None,
        name: str,
        dtype: ir.DataType | None = None,
        attributes: list[ir.Attr] | None = None,
    ) -> ir.Value:
        """A node before the product, its value of the shape of another; in the carrier, or the dtype given."""
        node = ir.Node("", operator, inputs, attributes or [], name=self._name(name))
        value = node.outputs[0]
        value.name, value.type = self._name(name), ir.TensorType(dtype or self.carrier)
        value.shape = like.shape if like is not None else None
        self.graph.insert_before(self.node, node)
        return value

    def _lazy(self, part: str, dtype: ir.DataType, shape: tuple[int, ...]) -> ir.Value:
        """A tensor of the quantised weights, found when it is written."""
        plan, latest, stored = self.plan, self.latest, self.stored

        def read() -> Tensor:
            return torch.from_numpy(np.asarray(stored.numpy(), dtype=np.float32))

        def made() -> ir.TensorProtocol:
            return typed(latest.tensor(plan, part, read), dtype, shape, name)

        name = self._name(part)
        return self._initializer(ir.LazyTensor(made, dtype, ir.Shape(shape), name=name))

    def _constant(self, part: str, tensor: Tensor, dtype: ir.DataType | None = None) -> ir.Value:
        return self._initializer(typed(tensor, dtype or self.carrier, tuple(tensor.shape), self._name(part)))

    def _initializer(self, tensor: ir.TensorProtocol) -> ir.Value:
        return register(self.model, tensor)

    def _name(self, part: str) -> str:
        return f"{self.plan.name}.{part}"
