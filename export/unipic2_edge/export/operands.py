"""What stands on the two sides of a matrix product: a weight or not, and in which number format."""

from __future__ import annotations

from onnx import ModelProto, NodeProto, TensorProto

from .graph_shapes import DYNAMIC_QUANTIZE

_FORMATS: dict[int, str] = {
    TensorProto.INT8: "int8",
    TensorProto.FLOAT8E4M3FN: "fp8",
    TensorProto.INT4: "int4",
    TensorProto.FLOAT4E2M1: "nvfp4",
}


class Operands:
    """The operands of a graph's products."""

    def __init__(self, model: ModelProto) -> None:
        self._makers = {output: node for node in model.graph.node for output in node.output}
        self._types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}

    def weight(self, node: NodeProto) -> str | None:
        """The initialiser on a product's right side, behind its DequantizeLinear where it has one."""
        name = str(node.input[1])
        while name not in self._types:
            maker = self._makers.get(name)
            if maker is None or maker.op_type not in ("DequantizeLinear", "Transpose"):
                return None
            name = str(maker.input[0])
        return name

    def format(self, side: str) -> str | None:
        """The format of a side of a product; None where no DequantizeLinear made it."""
        maker = self._makers.get(side)
        while maker is not None and maker.op_type in ("Transpose", "Reshape"):
            side = maker.input[0]
            maker = self._makers.get(side)
        if maker is None or maker.op_type != "DequantizeLinear":
            return None
        codes = maker.input[0]
        if codes in self._types:
            return _FORMATS.get(self._types[codes])
        source = self._makers[codes]
        if source.op_type == DYNAMIC_QUANTIZE:
            return "nvfp4"
        return _FORMATS.get(self._types.get(source.input[2], 0))
