"""A twin of a graph in arithmetic that a CPU has: the same nodes and the same rounded weights.

ONNX Runtime's CPU provider has no bfloat16 matrix product and no 4-bit floating point. The twin carries bfloat16 in
float32 and has nvfp4 weights decoded; it proves the graph and the rounding of the weights. What bfloat16 arithmetic
adds is measured on a GPU.

Quantised products are computed as the graph says, rounded and then multiplied: fused ones saturate on processors
without VNNI (int8), or round activations that the graph leaves alone (int4).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import ModelProto

from unipic2_edge.runtime.bundle import Bundle, Graph
from unipic2_edge.runtime.errors import WorkError
from unipic2_edge.runtime.onnx_session import import_onnxruntime
from unipic2_edge.runtime.session import check_inputs

_FOLDER = "session.model_external_initializers_file_folder_path"
_UNFUSED = "session.disable_quant_qdq"
Arrays = Mapping[str, NDArray[Any]]


def needs_twin(bundle: Bundle, name: str) -> bool:
    """Whether ONNX Runtime cannot compute on a CPU exactly what a graph says."""
    component = bundle.manifest.components[bundle.graph(name).component]
    return component.precision == "bfloat16" or bool(component.formats)


class Float32Twin:
    """A `Session` on the twin of a bundle's graph.

    Raises:
        BundleError: the graph or its weights are missing or damaged.
        WorkError: the graph quantises activations to nvfp4, which no CPU library does.
    """

    def __init__(self, bundle: Bundle, name: str, threads: int | None = None) -> None:
        self.graph: Graph = bundle.graph(name)
        model = ir.from_proto(ModelProto.FromString(bundle.read(self.graph.file)))
        if any(node.domain == "trt" for node in model.graph):
            raise WorkError(
                f"{name} quantises activations to nvfp4, which no CPU library does", "compile it for rtx-50"
            )
        weights = bundle.weights(name)
        dense = _widened(model, weights.parent) | _decoded(model, weights.parent)
        _widen_values(model)
        runtime = import_onnxruntime()
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0
        options.add_session_config_entry(_FOLDER, str(weights.parent.resolve()))
        options.add_session_config_entry(_UNFUSED, "1")
        values = [runtime.OrtValue.ortvalue_from_numpy(array) for array in dense.values()]
        options.add_external_initializers(list(dense), values)
        self._session = runtime.InferenceSession(
            ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def close(self) -> None:
        """Give its memory back (see `Session.close`)."""
        self._session = None

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Compute the graph's outputs from its inputs."""
        check_inputs(self.graph, inputs)
        names = [spec.name for spec in self.graph.outputs]
        return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))


def _widened(model: ir.Model, folder: Path) -> dict[str, NDArray[Any]]:
    """The bfloat16 initialisers in float32: those of the weights file as arrays, the others where they stand."""
    arrays = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.BFLOAT16:
            continue
        wide = _numpy(tensor, folder).astype(np.float32)
        if isinstance(tensor, ir.ExternalTensor):
            arrays[name] = wide
            _set_external(value, wide)
        else:
            value.const_value = ir.Tensor(wide, name=name)
        value.type = ir.TensorType(ir.DataType.FLOAT)
    return arrays


def _decoded(model: ir.Model, folder: Path) -> dict[str, NDArray[Any]]:
    """The nvfp4 weights as float32 matrices, in the place of the nodes that would decode them."""
    arrays = {}
    for node in list(_fp4_nodes(model)):
        codes, scales = node.inputs[0], node.inputs[1]
        maker = None if scales is None else scales.producer()
        if codes is None or codes.const_value is None or maker is None:
            raise RuntimeError(f"{node.name} decodes no weights")  # a bug, not a user's mistake
        narrow, wide = (_constant(value, folder) for value in maker.inputs[:2])
        block = node.attributes["block_size"].as_int()
        matrix = _numpy(codes.const_value, folder).astype(np.float32) * np.repeat(narrow * wide, block, axis=0)
        name = f"{codes.name}.decoded"
        value = ir.Value(name=name, shape=ir.Shape(matrix.shape), type=ir.TensorType(ir.DataType.FLOAT))
        _set_external(value, matrix)
        model.graph.register_initializer(value)
        for user, index in list(node.outputs[0].uses()):
            user.replace_input_with(index, value)
        model.graph.remove([node, maker], safe=True)
        del model.graph.initializers[codes.name or ""]
        arrays[name] = matrix
    return arrays


def _fp4_nodes(model: ir.Model) -> Iterator[ir.Node]:
    for node in model.graph:
        codes = node.inputs[0] if node.op_type == "DequantizeLinear" else None
        if codes is not None and codes.dtype == ir.DataType.FLOAT4E2M1:
            yield node


def _constant(value: ir.Value | None, folder: Path) -> NDArray[Any]:
    if value is None or value.const_value is None:
        raise RuntimeError("a scale that is no constant")  # a bug, not a user's mistake
    return _numpy(value.const_value, folder).astype(np.float32)


def _numpy(tensor: ir.TensorProtocol, folder: Path) -> NDArray[Any]:
    if isinstance(tensor, ir.ExternalTensor):
        tensor = ir.ExternalTensor(
            tensor.location,
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=tensor.shape,
            name=tensor.name or "",
            base_dir=folder,
        )
    return np.asarray(tensor.numpy())


def _set_external(value: ir.Value, array: NDArray[Any]) -> None:
    """Declare an initialiser whose bytes the session is given."""
    shape, name = ir.Shape(array.shape), value.name or ""
    value.const_value = ir.ExternalTensor("given", 0, array.nbytes, ir.DataType.FLOAT, shape=shape, name=name)


def _widen_values(model: ir.Model) -> None:
    """Let every bfloat16 value and cast of a model be float32."""
    for value in [output for node in model.graph for output in node.outputs]:
        if value.dtype == ir.DataType.BFLOAT16:
            value.type = ir.TensorType(ir.DataType.FLOAT)
    for node in model.graph:
        to = node.attributes.get("to")
        if to is not None and to.as_int() == ir.DataType.BFLOAT16:
            node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT)
