"""Which matrix products of a bundle run quantised, and what share of the arithmetic they are.

Counted on the graphs as they were written: shapes are inferred for one size of picture, and a product of [.., M, K] and
[K, N] is 2·M·K·N operations. A product with a weight is linear, one of two activations is attention.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import onnx

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.errors import BundleError

from .graph_shapes import infer_values
from .operands import Operands
from .operations import matrix_operations

_ROWS = 2  # both guidance branches of one picture
_WORDS = 32  # tokens of an instruction, with the chat template's
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
    operands, values = Operands(model), infer_values(model, _extents(bundle, size)).values
    found = []
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm"):
            try:
                flops = matrix_operations(node, values) or 0
            except KeyError as missing:
                raise BundleError(
                    f"the shape of {missing} in {graph} is unknown", "export the checkpoint again"
                ) from None
            weight = operands.weight(node)
            kind, name = ("attention", node.name) if weight is None else ("linear", _WEIGHT.sub("", weight))
            sides = [operands.format(side) for side in node.input[:2]]
            found.append(Product(name, kind, sides[1], sides[0], flops))
    return found


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
