"""Sensitivity: what quantising each layer alone costs, and the recipe that spends a budget where it buys most.

Errors of single layers add up nearly as independent ones do, in squares, so the best choice under a budget is found by
one price λ of error: every layer takes the format with the least bytes + λ·error² (Everett 1963). What the sum predicts
is measured then, and the budget tightened until it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..graph_specs import GraphSpec
from ..recipes import ComponentRecipe, LayerRule
from ..reference import TorchSession
from .drift import Call, velocity_errors
from .fake import ComponentPlan
from .formats import BITS
from .layers import LayerPlan

_CALLS = 6
_PRICES = np.geomspace(1e3, 1e15, 121)

Advance = Callable[[str], None]


@dataclass(frozen=True)
class Option:
    """One way to store a layer: None keeps it.

    Attributes:
        rule: what it is quantised to.
        error: the relative error of the velocity when this layer alone is stored so.
        bytes: of its weights.
    """

    rule: LayerRule | None
    error: float
    bytes: int


def layer_errors(
    spec: GraphSpec, layers: Mapping[str, LayerPlan], calls: Sequence[Call], done: Advance = lambda name: None
) -> dict[str, float]:
    """The relative error of the denoiser's velocity with each layer quantised alone.

    Args:
        spec: the denoiser in float32.
        layers: the plans.
        calls: of the reference's denoiser; some, spread over tasks and schedule, are used.
        done: called with each layer's name.
    """
    chosen = [calls[index] for index in np.linspace(0, len(calls) - 1, min(_CALLS, len(calls))).astype(int)]
    errors = {}
    for name, plan in layers.items():
        session = TorchSession(spec, ComponentPlan({name: plan}, {}).prepare)
        errors[name] = float(np.sqrt(np.mean(np.square(velocity_errors(session, chosen)))))
        session.close()
        done(name)
    return errors


def stored_bytes(plan: LayerPlan, shape: tuple[int, int]) -> int:
    """What a layer's weights take, scales included."""
    inputs, outputs = shape
    blocks = 1 if plan.block is None else inputs // plan.block
    scale = 1 if plan.rule.weights == "nvfp4" else plan.carrier.itemsize
    branch = plan.rule.rank * (inputs + outputs) * plan.carrier.itemsize
    return inputs * outputs * BITS[str(plan.rule.weights)] // 8 + blocks * outputs * scale + branch


def cheapest(options: Mapping[str, Sequence[Option]], velocity: float) -> dict[str, Option]:
    """The fewest bytes whose errors, added in squares, stay within a velocity error."""
    best: dict[str, Option] = {}
    for price in _PRICES:
        best = {name: min(some, key=lambda option: _cost(option, price)) for name, some in options.items()}
        if sum(option.error**2 for option in best.values()) <= velocity**2:
            return best
    return best


def _cost(option: Option, price: float) -> tuple[float, float]:
    return option.bytes + price * option.error**2, option.error


def as_recipe(chosen: Mapping[str, Option], base: ComponentRecipe) -> ComponentRecipe:
    """A component's recipe with a rule for every layer that was chosen."""
    rules = [
        LayerRule(layers=name) if option.rule is None else _named(option.rule, name) for name, option in chosen.items()
    ]
    return ComponentRecipe(precision=base.precision, rules=tuple(rules), attention=base.attention)


def _named(rule: LayerRule, name: str) -> LayerRule:
    return LayerRule(**{field: getattr(rule, field) for field in rule.__struct_fields__} | {"layers": name})
