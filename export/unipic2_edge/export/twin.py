"""A float32 twin of a bfloat16 graph: the same nodes and the same rounded weights, in arithmetic a CPU has.

ONNX Runtime's CPU provider has no bfloat16 matrix product. The twin proves the graph and the rounding of the
weights; what bfloat16 arithmetic adds is measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import ModelProto
from safetensors import safe_open

from unipic2_edge.runtime.bundle import Bundle, Graph
from unipic2_edge.runtime.onnx_session import import_onnxruntime
from unipic2_edge.runtime.session import check_inputs


class Float32Twin:
    """A `Session` on the twin of a bundle's bfloat16 graph.

    Raises:
        BundleError: the graph or its weights are missing or damaged.
    """

    def __init__(self, bundle: Bundle, name: str) -> None:
        self.graph: Graph = bundle.graph(name)
        model = ir.from_proto(ModelProto.FromString(bundle.read(self.graph.file)))
        runtime = import_onnxruntime()
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        weights = _weights(model, str(bundle.weights(name)))
        values = [runtime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
        options.add_external_initializers(list(weights), values)
        _widen(model)
        self._session = runtime.InferenceSession(
            ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def close(self) -> None:
        """Give its memory back (see `Session.close`)."""
        self._session = None

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Compute the graph's outputs from its inputs."""
        check_inputs(self.graph, inputs)
        names = [spec.name for spec in self.graph.outputs]
        return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))


def _weights(model: ir.Model, path: str) -> dict[str, NDArray[Any]]:
    """The model's external weights, bfloat16 ones in float32."""
    with safe_open(path, framework="pt") as stored:
        tensors = {
            name: stored.get_tensor(name)
            for name, value in model.graph.initializers.items()
            if isinstance(value.const_value, ir.ExternalTensor)
        }
    return {
        name: (tensor.float() if tensor.is_floating_point() else tensor).numpy() for name, tensor in tensors.items()
    }


def _widen(model: ir.Model) -> None:
    """Turn every bfloat16 of a model into float32: initialisers, casts, and the types of all values."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.BFLOAT16:
            continue
        if isinstance(tensor, ir.ExternalTensor):  # its bytes come from `_weights`
            length = 4 * int(np.prod(tensor.shape.numpy()))
            value.const_value = ir.ExternalTensor(
                tensor.location, 0, length, ir.DataType.FLOAT, shape=tensor.shape, name=value.name or ""
            )
        else:
            value.const_value = ir.Tensor(tensor.numpy().astype(np.float32), name=value.name)
        value.type = ir.TensorType(ir.DataType.FLOAT)
    for value in [output for node in model.graph for output in node.outputs]:
        if value.dtype == ir.DataType.BFLOAT16:
            value.type = ir.TensorType(ir.DataType.FLOAT)
    for node in model.graph:
        to = node.attributes.get("to")
        if to is not None and to.as_int() == ir.DataType.BFLOAT16:
            node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT)
