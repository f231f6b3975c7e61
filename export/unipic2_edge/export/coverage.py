"""Which matrix products of a bundle run quantised, and what share of the arithmetic they are.

Counted on the graphs as they were written: shapes are inferred for one size of picture, and a product of [.., M, K] and
[K, N] is 2·M·K·N operations. A product with a weight is linear, one of two activations is attention.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from math import prod

import onnx
import onnx_ir as ir
from onnx import ModelProto, NodeProto, TensorProto
from onnxscript import optimizer

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.errors import BundleError

_ROWS = 2  # both guidance branches of one picture
_WORDS = 32  # tokens of an instruction, with the chat template's
_FORMATS: dict[int, str] = {
    TensorProto.INT8: "int8",
    TensorProto.FLOAT8E4M3FN: "fp8",
    TensorProto.INT4: "int4",
    TensorProto.FLOAT4E2M1: "nvfp4",
}
_DYNAMIC = "TRT_FP4DynamicQuantize"
_WEIGHT = re.compile(r"\.weight(\.transposed|\.codes|\.down|\.up)?$")


@dataclass(frozen=True)
class Product:
    """One matrix product.

    Attributes:
        name: of the layer, or of the graph's node where it has no weight.
        kind: "linear" or "attention".
        weights: the format of its right side; None where it is not quantised.
        inputs: the format of its left side; None where it is not quantised.
        flops: operations, two for each multiply-add.
    """

    name: str
    kind: str
    weights: str | None
    inputs: str | None
    flops: int

    @property
    def quantised(self) -> bool:
        """A linear product is by its weights, an attention product by both of its sides."""
        return self.weights is not None and (self.kind == "linear" or self.inputs is not None)


def products(bundle: Bundle, graph: str, size: tuple[int, int]) -> list[Product]:
    """A graph's matrix products in their order, for an edit of one picture of `size` (width, height) with guidance.

    Raises:
        BundleError: the graph is missing or damaged, or the shapes of its products cannot be inferred.
    """
    model = onnx.load(bundle.path(bundle.graph(graph).file), load_external_data=False)
    makers = {output: node for node in model.graph.node for output in node.output}
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    shapes = _shapes(model, _extents(bundle, size))
    found = []
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm"):
            try:
                flops = 2 * prod(shapes[node.output[0]]) * _depth(node, shapes)
            except KeyError as missing:
                raise BundleError(
                    f"the shape of {missing} in {graph} is unknown", "export the checkpoint again"
                ) from None
            weight = _weight(node, makers, types)
            kind, name = ("attention", node.name) if weight is None else ("linear", _WEIGHT.sub("", weight))
            sides = [_format(side, makers, types) for side in node.input[:2]]
            found.append(Product(name, kind, sides[1], sides[0], flops))
    return found


def _depth(node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """K, the length of the sums."""
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return shapes[node.input[0]][0 if transposed else -1]


def _weight(node: NodeProto, makers: Mapping[str, NodeProto], types: Mapping[str, int]) -> str | None:
    """The initialiser on a product's right side, behind its DequantizeLinear where it has one."""
    name = str(node.input[1])
    while name not in types:
        maker = makers.get(name)
        if maker is None or maker.op_type not in ("DequantizeLinear", "Transpose"):
            return None
        name = str(maker.input[0])
    return name


def _format(side: str, makers: Mapping[str, NodeProto], types: Mapping[str, int]) -> str | None:
    """The format of a side of a product; None where no DequantizeLinear made it."""
    maker = makers.get(side)
    while maker is not None and maker.op_type in ("Transpose", "Reshape"):
        side = maker.input[0]
        maker = makers.get(side)
    if maker is None or maker.op_type != "DequantizeLinear":
        return None
    codes = maker.input[0]
    if codes in types:
        return _FORMATS.get(types[codes])
    source = makers[codes]
    return "nvfp4" if source.op_type == _DYNAMIC else _FORMATS.get(types.get(source.input[2], 0))


def _shapes(model: ModelProto, extents: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Every value's shape for these extents; values of unknown shape are left out."""
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
    values = [*begun.graph.inputs, *begun.graph.initializers.values()]
    values += [output for node in begun.graph for output in node.outputs]
    return {
        value.name or "": value.shape.numpy() for value in values if value.shape is not None and value.shape.is_static()
    }


def _drop_dynamic(model: ModelProto) -> None:
    """TensorRT's quantisation of nvfp4 inputs, which ONNX cannot infer, out of the way: it keeps their shape."""
    sources = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == _DYNAMIC}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in sources:
            rounded = NodeProto(op_type="Identity", name=node.name)
            rounded.input.append(sources[node.input[0]])
            rounded.output.append(node.output[0])
            node.CopyFrom(rounded)


def _extents(bundle: Bundle, size: tuple[int, int]) -> dict[str, int]:
    """The value of every named dimension."""
    manifest = bundle.manifest
    factor = manifest.latents.factor
    cell = factor * manifest.latents.patch_size
    width, height = size
    text, query = manifest.text, manifest.query
    lengths = (77, 256) if text is None else tuple(entry.length for entry in text.tokenizers.values())
    seen, queries = (-(-width // 32), -(-height // 32)), 0 if query is None else query.count
    picture = seen[0] * seen[1]  # tokens of the language model
    return {
        "batch": _ROWS,
        "tokens": 2 * (width // cell) * (height // cell),  # the reference's and the picture's
        "context": lengths[0] + lengths[-1] if query is None else queries,
        "windows": -(-seen[0] // 4) * -(-seen[1] // 4),
        "image_tokens": picture,
        "sequence": picture + _WORDS + queries,  # an instruction that is read for the first time
        "past": 0,
        "total": picture + _WORDS + queries,
        "selected": max(queries, 1),
        "steps": 1,
        "height": height,
        "width": width,
        "h": height // factor,
        "w": width // factor,
    }


def share(of: Iterable[Product], kind: str) -> float | None:
    """The share of the operations of a kind that run quantised, 0…1; None where there is none."""
    chosen = [product for product in of if product.kind == kind]
    total = sum(product.flops for product in chosen)
    return sum(product.flops for product in chosen if product.quantised) / total if total else None


def coverage_lines(graph: str, found: list[Product]) -> list[str]:
    """A graph's products for people: the shares, and equal layers of all blocks on one line."""
    total = sum(product.flops for product in found)
    shares = ", ".join(
        f"{100 * part:.1f} % of {kind}" for kind in ("linear", "attention") if (part := share(found, kind)) is not None
    )
    lines = [f"{graph}: {total / 1e12:.3g} TFLOP a call, quantised {shares}"]
    for (name, weights, inputs), group in _groups(found):
        formats = "-" if weights is None else f"{weights} x {inputs or 'as it is'}"
        part = 100 * sum(product.flops for product in group) / total
        lines.append(f"  {len(group):4d}  {part:6.2f} %  {formats:<18} {name}")
    return lines


def coverage_record(found: list[Product]) -> dict[str, object]:
    """A graph's shares and products, JSON-ready."""
    shares = {kind: share(found, kind) for kind in ("linear", "attention")}
    return {"quantised": shares, "products": [asdict(product) for product in found]}


def _groups(found: list[Product]) -> Iterator[tuple[tuple[str, str | None, str | None], list[Product]]]:
    groups: dict[tuple[str, str | None, str | None], list[Product]] = {}
    for product in found:
        name = re.sub(r"\.\d+(?=\.)", ".*", product.name, count=1) if product.kind == "linear" else "attention"
        groups.setdefault((name, product.weights, product.inputs), []).append(product)
    yield from sorted(groups.items(), key=lambda item: -sum(product.flops for product in item[1]))
