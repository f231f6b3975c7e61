"""Attention products in fp8: query, key, probabilities and value rounded before they are multiplied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor
from torch import Tensor

from .fake import AttentionPlan
from .graph_values import CODES, insert, register, typed


def quantize_attention(model: ir.Model, plans: Mapping[str, AttentionPlan]) -> set[str]:
    """Round the inputs of a graph's planned attention products, in place; the names of those found."""
    found = set()
    for products, name in list(_attention_products(model, plans)):
        _quantize(model, products, plans[name])
        found.add(name)
    return found


def _attention_products(
    model: ir.Model, plans: Mapping[str, AttentionPlan]
) -> Iterator[tuple[tuple[ir.Node, ir.Node], str]]:
    """The two products of every planned attention, q·kᵀ and p·v, found in the order in which a block has them."""
    prefix = f"{model.graph.name}."
    places: dict[str, list[str]] = {}
    for name in plans:
        if name.startswith(prefix):
            places.setdefault(name.split(".attn")[0], []).append(name)
    for place, names in places.items():
        path = place.removeprefix(prefix) + "."
        products = [node for node in model.graph if _is_attention(node, model) and (node.name or "").startswith(path)]
        if len(products) != 2 * len(names):
            raise RuntimeError(f"{place} has {len(products)} products of activations")  # a bug, not a user's mistake
        for index, name in enumerate(sorted(names)):
            yield (products[2 * index], products[2 * index + 1]), name


def _is_attention(node: ir.Node, model: ir.Model) -> bool:
    """A product of two activations; those of low-rank branches and layers have an initialiser or a Dequantize."""
    if node.op_type != "MatMul" or node.inputs[1] is None:
        return False
    right = node.inputs[1]
    maker = right.producer()
    return (
        (right.name or "") not in model.graph.initializers and maker is not None and maker.op_type != "DequantizeLinear"
    )


def _quantize(model: ir.Model, products: tuple[ir.Node, ir.Node], plan: AttentionPlan) -> None:
    """Round all four inputs of both products."""
    scores, mixing = products
    places = ((scores, 0, "query"), (scores, 1, "key"), (mixing, 0, "probabilities"), (mixing, 1, "value"))
    for (node, index, part), scale in zip(places, plan.scales, strict=True):
        source = node.inputs[index]
        if source is None or source.dtype is None:
            raise RuntimeError(f"{plan.name} lacks its {part}")  # a bug, not a user's mistake
        node.replace_input_with(index, _rounded(model, node, source, scale, f"{plan.name}.{part}"))


def _rounded(model: ir.Model, before: ir.Node, source: ir.Value, scale: Tensor, name: str) -> ir.Value:
    """A value rounded to fp8 and back."""
    kind = CODES["fp8"]
    factor = register(model, TorchTensor(scale, name=f"{name}.scale"))
    zero = register(model, typed(torch.zeros((), dtype=torch.int8), kind, (), f"{name}.zero"))
    codes = insert(model, before, "QuantizeLinear", [source, factor, zero], f"{name}.codes", kind)
    codes.shape = source.shape
    rounded = insert(model, before, "DequantizeLinear", [codes, factor, zero], f"{name}.rounded", source.dtype)
    rounded.shape = source.shape
    return rounded
