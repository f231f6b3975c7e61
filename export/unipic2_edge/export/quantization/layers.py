"""A quantised layer: what its rule asks for, what calibration found, and the tensors that come of its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from unipic2_edge.runtime.errors import CheckpointError, RecipeError

from ..recipes import ComponentRecipe, LayerRule
from .formats import NVFP4_BLOCK, QuantizedWeight, activation_scale, block_for, quantize_activations, quantize_weight

_SVD_SEED = 11
_SVD_ROUNDS = 4


@dataclass(frozen=True)
class LayerPlan:
    """How one layer y = x·W is quantised.

    Attributes:
        name: of the layer, without `.weight`.
        rule: of the recipe.
        carrier: the component's precision.
        block: inputs that share a scale, where the format has blocks.
        smoothing: [K] float32, what inputs are divided by and weights multiplied with; None for ones.
        amax: the largest magnitude of (smoothed) inputs that is told apart; None where inputs are not quantised.
    """

    name: str
    rule: LayerRule
    carrier: torch.dtype
    block: int | None = None
    smoothing: Tensor | None = None
    amax: float | None = None

    @property
    def inverse(self) -> Tensor | None:
        """[K] in the carrier, what inputs are multiplied with."""
        return None if self.smoothing is None else (1 / self.smoothing).to(self.carrier)

    @property
    def input_scale(self) -> Tensor | None:
        """[] in the carrier, the inputs' (global) scale."""
        if self.rule.activations is None or self.amax is None:
            return None
        return activation_scale(self.amax, self.rule.activations, self.carrier)


@dataclass(frozen=True)
class QuantizedLayer:
    """A layer's weights as stored: codes and scales, and the low-rank branch x·down·up where there is one."""

    weight: QuantizedWeight
    down: Tensor | None = None  # [K, r] in the carrier
    up: Tensor | None = None  # [r, N] in the carrier


def quantize_layer(weight: Tensor, plan: LayerPlan) -> QuantizedLayer:
    """Quantise a layer's weights [K, N] as planned.

    Raises:
        CheckpointError: the weights hold NaN or infinity.
    """
    weight = weight.float()
    if not torch.isfinite(weight).all():
        raise CheckpointError(f"the weights of {plan.name} hold NaN or infinity", "export a checkpoint that is whole")
    inverse = plan.inverse
    if inverse is not None:
        weight = weight / inverse.float()[:, None]  # what the inputs are really multiplied with, undone
    if plan.rule.rank == 0:
        return QuantizedLayer(_quantized(weight, plan))
    down, up = _low_rank(weight, plan.rule.rank, plan.carrier)
    return QuantizedLayer(_quantized(weight - down.float() @ up.float(), plan), down, up)


def _quantized(weight: Tensor, plan: LayerPlan) -> QuantizedWeight:
    if plan.rule.weights is None:
        raise ValueError(f"{plan.name} has no format")  # a bug, not a user's mistake
    return quantize_weight(weight, plan.rule.weights, plan.carrier, plan.block, plan.rule.reduce_range)


def fake_linear(
    inputs: Tensor, layer: QuantizedLayer, plan: LayerPlan, matrix: Tensor, bias: Tensor | None = None
) -> Tensor:
    """A quantised layer's result in float32 arithmetic.

    Args:
        inputs: [..., K].
        layer: its low-rank branch is used.
        plan: its smoothing and the rounding of inputs.
        matrix: [K, N], the layer's codes decoded.
        bias: [N].
    """
    smoothed = inputs.float() if plan.inverse is None else inputs.float() * plan.inverse.float()
    seen, scale = smoothed, plan.input_scale
    if plan.rule.activations is not None and scale is not None:
        seen = quantize_activations(smoothed, plan.rule.activations, scale)
    made = seen @ matrix
    if layer.down is not None and layer.up is not None:
        made = made + smoothed @ layer.down.float() @ layer.up.float()
    return made if bias is None else made + bias.float()


def _low_rank(weight: Tensor, rank: int, carrier: torch.dtype) -> tuple[Tensor, Tensor]:
    """The best approximation of a rank, as down [K, r] and up [r, N]; the same every time."""
    rank = min(rank, *weight.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SVD_SEED)
        left, values, right = torch.svd_lowrank(weight, q=rank, niter=_SVD_ROUNDS)
    root = values.sqrt()
    return (left * root).to(carrier), (root[:, None] * right.T).to(carrier)


def plan_layers(shapes: Mapping[str, tuple[int, int]], recipe: ComponentRecipe) -> dict[str, LayerPlan]:
    """Which of a component's layers are quantised, by name, as far as that is known before calibration.

    Args:
        shapes: layer → (K, N), of all graphs of the component.
        recipe: the component's.

    Raises:
        RecipeError: a pattern fits no layer.
    """
    plans = {}
    for name, (inputs, _) in shapes.items():
        rule = next((rule for rule in recipe.rules if fnmatchcase(name, rule.layers)), None)
        if rule is None or rule.weights is None:
            continue
        block = _block(rule, inputs)
        if block is None and rule.weights in ("int4", "nvfp4"):
            continue  # no block of 16 divides its inputs
        plans[name] = LayerPlan(name, rule, recipe.dtype, block)
    _check_patterns(shapes, recipe.rules)
    return plans


def _block(rule: LayerRule, inputs: int) -> int | None:
    if rule.weights == "nvfp4":
        return NVFP4_BLOCK if inputs % NVFP4_BLOCK == 0 else None
    return block_for(inputs, rule.block or 128) if rule.weights == "int4" else None


def _check_patterns(names: Iterable[str], rules: Iterable[LayerRule]) -> None:
    known = sorted(names)
    for rule in rules:
        if not any(fnmatchcase(name, rule.layers) for name in known):
            near = f"layers are named like {known[len(known) // 2]}" if known else "it has no layers"
            raise RecipeError(f"the pattern {rule.layers!r} fits no layer", near)
