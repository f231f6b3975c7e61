"""Quantised layers in PyTorch: the reference's modules, their products rounded as an engine rounds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..blocks import AttentionProduct
from ..reference import linears
from .formats import PEAK, activation_scale, quantize_activations
from .layers import LayerPlan, fake_linear, quantize_layer


@dataclass(frozen=True)
class AttentionPlan:
    """An attention product in fp8: the largest magnitudes of scaled query, scaled key, and value."""

    name: str
    carrier: torch.dtype
    amax: tuple[float, float, float]

    @property
    def scales(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[] each in the carrier: of query, key, probabilities (which end at 1) and value."""
        query, key, value = (activation_scale(amax, "fp8", self.carrier) for amax in self.amax)
        return query, key, activation_scale(1.0, "fp8", self.carrier), value


@dataclass(frozen=True)
class ComponentPlan:
    """All that is quantised of a component, by layer and by attention product."""

    layers: Mapping[str, LayerPlan]
    attention: Mapping[str, AttentionPlan]

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats in use, those with fewer bits last."""
        used = {str(plan.rule.weights) for plan in self.layers.values()}
        used |= {plan.rule.activations for plan in self.layers.values() if plan.rule.activations is not None}
        used |= {"fp8"} if self.attention else set()
        return tuple(name for name in PEAK if name in used)

    def prepare(self, place: str, module: nn.Module) -> None:
        """Quantise a stage's module in place (a `Prepare`)."""
        for name, linear in list(linears(place, module)):
            if name in self.layers:
                _replace(module, name.removeprefix(f"{place}."), FakeLinear(linear, self.layers[name]))
        for name, child in list(module.named_modules()):
            if isinstance(child, AttentionProduct) and f"{place}.{name}" in self.attention:
                _replace(module, name, FakeAttentionProduct(self.attention[f"{place}.{name}"]))


def _replace(module: nn.Module, name: str, new: nn.Module) -> None:
    module.set_submodule(name, new)


class FakeLinear(nn.Linear):
    """A quantised layer in float32 arithmetic; takes over a layer's weights, which some models look at."""

    def __init__(self, linear: nn.Linear, plan: LayerPlan) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight, self.bias, self.plan = linear.weight, linear.bias, plan
        self.layer = quantize_layer(linear.weight.detach().T, plan)
        self.matrix = self.layer.weight.dequantized()

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., K] → [..., N]."""
        return fake_linear(inputs, self.layer, self.plan, self.matrix, self.bias)


class FakeAttentionProduct(AttentionProduct):
    """Attention with query, key, probabilities and value rounded to fp8."""

    def __init__(self, plan: AttentionPlan) -> None:
        super().__init__()
        self.plan = plan

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """As ONNX's decomposition computes it: both query and key are scaled by d^(-1/4)."""
        factor = query.shape[-1] ** -0.25
        query_scale, key_scale, one_scale, value_scale = self.plan.scales
        scores = quantize_activations(query * factor, "fp8", query_scale) @ quantize_activations(
            key * factor, "fp8", key_scale
        ).transpose(2, 3)
        probabilities = quantize_activations(functional.softmax(scores, dim=-1), "fp8", one_scale)
        mixed = probabilities @ quantize_activations(value, "fp8", value_scale)
        return mixed.transpose(1, 2).flatten(2)
