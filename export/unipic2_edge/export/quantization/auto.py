"""`--recipe auto`: a recipe found for a budget, by layer: 4 bit where it costs least, 8 bit, or as it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from unipic2_edge.runtime.errors import RequestError
from unipic2_edge.training.checkpoint import Checkpoint

from ..recipes import ComponentRecipe, GateThresholds, Recipe
from ..reference import linears, place_of
from ..reference_pipeline import Reference
from .calibration_set import CalibrationSet
from .fake import ComponentPlan
from .gate import Gate
from .layers import LayerPlan
from .planning import make_plans
from .sensitivity import Option, as_recipe, cheapest, layer_errors, stored_bytes

_ROUNDS = 6
_MARGIN = 0.95  # what comes after fake quantisation adds a little of its own
_LARGEST, _SMALLEST = 0.5, 0.005  # velocity errors to search between

Advance = Callable[[str], None]


@dataclass(frozen=True)
class Budget:
    """What a recipe may cost: dB that must be kept, relative velocity error or points of score that may be lost."""

    kind: Literal["psnr", "velocity", "points"]
    amount: float

    def thresholds(self, prompts: int) -> GateThresholds:
        """As the recipe's gate."""
        if self.kind == "points":
            return GateThresholds(points=self.amount, prompts=prompts)
        if self.kind == "psnr":
            return GateThresholds(psnr=self.amount)
        return GateThresholds(velocity=self.amount)


def parse_budget(text: str) -> Budget:
    """Read `psnr=35`, `velocity=0.05` or `points=1`.

    Raises:
        RequestError: anything else.
    """
    found = re.fullmatch(r"(psnr|velocity|points)=(\d+(?:\.\d+)?)", text)
    if found is None:
        raise RequestError(f"{text!r} is no budget", "write psnr=35 (dB), velocity=0.05 or points=1")
    kind: Literal["psnr", "velocity", "points"] = found[1]  # type: ignore[assignment]
    return Budget(kind, float(found[2]))


@dataclass(frozen=True)
class Search:
    """What `find` works with.

    Attributes:
        checkpoint: the source.
        reference: of the checkpoint.
        chosen: the calibration set.
        gate: over both.
        formats: recipes whose denoiser rules are the options, the smallest first.
        prompts: to score, where the budget is in points.
    """

    checkpoint: Checkpoint
    reference: Reference
    chosen: CalibrationSet
    gate: Gate
    formats: tuple[Recipe, ...]
    prompts: int


def find(search: Search, base: Recipe, budget: Budget, done: Advance = lambda name: None) -> Recipe:
    """The smallest recipe of the denoiser that was found to hold the budget.

    Args:
        search: what to work with.
        base: name, precisions and everything but the denoiser's rules.
        budget: what may be lost.
        done: called with what was just finished.
    """
    plans = [_denoiser_plans(search, recipe) for recipe in search.formats]
    options = _options(search, plans, done)
    low, high, best = _SMALLEST, _LARGEST, _kept(base, options)
    for _ in range(_ROUNDS):
        middle = (low * high) ** 0.5
        chosen = cheapest(options, middle)
        if _holds(search, budget, _plan_of(chosen, plans)):
            low, best = middle, as_recipe(chosen, base.of("denoiser"))
        else:
            high = middle
        done(f"velocity error {middle:.3f} tried")
    components = dict(base.components) | {"denoiser": best}
    return msgspec.structs.replace(base, components=components, gate=budget.thresholds(search.prompts))


def _denoiser_plans(search: Search, recipe: Recipe) -> dict[str, LayerPlan]:
    made = make_plans(search.checkpoint, recipe, ("denoiser",), search.reference, search.chosen)
    return dict(made["denoiser"].layers)


def _options(search: Search, plans: list[dict[str, LayerPlan]], done: Advance) -> dict[str, list[Option]]:
    """Every layer's ways to be stored, kept as it is among them."""
    spec = next(spec for spec in search.reference.specs("denoiser") if spec.name == "denoiser")
    shapes = {
        name: (linear.in_features, linear.out_features)
        for stage in spec.stages
        for name, linear in linears(place_of(spec, stage), stage.module)
    }
    options: dict[str, list[Option]] = {}
    for layers in plans:
        errors = layer_errors(spec, layers, search.gate.calls, done)
        for name, plan in layers.items():
            options.setdefault(name, []).append(Option(plan.rule, errors[name], stored_bytes(plan, shapes[name])))
    for name, some in options.items():
        inputs, outputs = shapes[name]
        carrier = plans[0][name].carrier if name in plans[0] else plans[-1][name].carrier
        some.append(Option(None, 0.0, inputs * outputs * carrier.itemsize))
    return options


def _plan_of(chosen: dict[str, Option], plans: list[dict[str, LayerPlan]]) -> ComponentPlan:
    layers = {}
    for name, option in chosen.items():
        fitting = [some[name] for some in plans if name in some and some[name].rule is option.rule]
        if option.rule is not None and fitting:
            layers[name] = fitting[0]
    return ComponentPlan(layers, {})


def _kept(base: Recipe, options: dict[str, list[Option]]) -> ComponentRecipe:
    return as_recipe({name: some[-1] for name, some in options.items()}, base.of("denoiser"))


def _holds(search: Search, budget: Budget, plan: ComponentPlan) -> bool:
    """Whether a plan keeps the budget, by fake quantisation."""
    plans = {"denoiser": plan}
    if budget.kind == "points":
        pipeline = search.reference.pipeline({"denoiser": plan.prepare})
        scores = search.gate.scores(pipeline, search.prompts)
        return max(lost.points for lost in scores.values()) <= budget.amount
    drift = search.gate.fake(plans, pictures=budget.kind == "psnr")
    if budget.kind == "velocity":
        return (drift.velocity or 0.0) <= _MARGIN * budget.amount
    return drift.pictures is not None and _MARGIN * drift.pictures.psnr >= budget.amount
