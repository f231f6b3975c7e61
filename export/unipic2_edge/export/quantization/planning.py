"""From a recipe to a plan for every component: which layers are quantised, and with which scales."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch

from unipic2_edge.training.checkpoint import Checkpoint

from ..blocks import AttentionProduct
from ..components import graphs_of
from ..graph_specs import GraphSpec
from ..recipes import ComponentRecipe, Recipe
from ..reference import in_memory, linears, place_of
from ..reference_pipeline import Reference
from .calibration import Watcher
from .calibration_set import CalibrationSet
from .fake import AttentionPlan, ComponentPlan
from .layers import LayerPlan, plan_layers
from .leading import denoiser_calls, lead
from .scaling import calibrated

Advance = Callable[[str], None]


@dataclass(frozen=True)
class Draft:
    """A component before calibration: its graphs in float32, its recipe, and the layers to quantise."""

    specs: list[GraphSpec]
    recipe: ComponentRecipe
    layers: Mapping[str, LayerPlan]


def make_plans(
    checkpoint: Checkpoint,
    recipe: Recipe,
    components: Iterable[str],
    reference: Reference | None,
    chosen: CalibrationSet | None,
    done: Advance = lambda name: None,
) -> dict[str, ComponentPlan]:
    """Plan every component that has anything to quantise.

    Args:
        checkpoint: the source.
        recipe: what is wanted.
        components: those that are exported.
        reference: of the checkpoint, and
        chosen: the calibration set, where the recipe is calibrated.
        done: called with what was just finished.

    Raises:
        RecipeError: a pattern fits no layer.
        WorkError: calibration met NaN or infinity.
        CheckpointError: a weight is not finite.
    """
    drafts = {name: _draft(checkpoint, name, recipe.of(name)) for name in components if recipe.of(name).quantized}
    if reference is None or chosen is None or not any(draft.recipe.calibrated for draft in drafts.values()):
        return {name: ComponentPlan(draft.layers, {}) for name, draft in drafts.items()}
    watchers = watch(reference, drafts, chosen, done)
    plans = {}
    for name, draft in drafts.items():
        plans[name] = _calibrated(draft, watchers[name])
        done(f"scales of {name}")
    return plans


def _draft(checkpoint: Checkpoint, component: str, recipe: ComponentRecipe) -> Draft:
    specs = list(graphs_of(checkpoint, component, torch.float32))
    return Draft(specs, recipe, plan_layers(dict(_shapes(specs)), recipe))


def _shapes(specs: Iterable[GraphSpec]) -> Iterator[tuple[str, tuple[int, int]]]:
    for spec in specs:
        for stage in spec.stages:
            for name, linear in linears(place_of(spec, stage), stage.module):
                yield name, (linear.in_features, linear.out_features)


def watch(
    reference: Reference, drafts: Mapping[str, Draft], chosen: CalibrationSet, done: Advance
) -> dict[str, Watcher]:
    """Lead the reference through the calibration set, watching what the drafts need to know.

    Raises:
        WorkError: NaN or infinity came by.
    """
    calls = denoiser_calls(chosen, reference.manifest.defaults["generate"].num_inference_steps)
    watchers = {}
    for name, draft in drafts.items():
        wanted = [plan.name for plan in draft.layers.values() if plan.rule.calibrated]
        attention, often = draft.recipe.attention is not None, calls if name == "denoiser" else 2
        watchers[name] = Watcher(wanted, attention, chosen.settings.rows, often)
    pipeline = reference.pipeline({name: watcher.prepare for name, watcher in watchers.items()})
    try:
        for task, pictures in lead(pipeline, chosen):
            done(f"{len(pictures)} {'generated' if task == 'generate' else 'edited'}")
    finally:  # a layer that met NaN says more than the picture that came of it
        pipeline.close()
        for watcher in watchers.values():
            watcher.check_finite()
    for watcher in watchers.values():
        watcher.check_seen()
    return watchers


def _calibrated(draft: Draft, watcher: Watcher) -> ComponentPlan:
    """Search every layer's scales, one stage's weights in memory at a time."""
    layers = dict(draft.layers)
    attention: dict[str, AttentionPlan] = {}
    for spec in draft.specs:
        for stage in spec.stages:
            place = place_of(spec, stage)
            if any(name in watcher.layers for name, _ in linears(place, stage.module)):
                for name, linear in linears(place, in_memory(stage)):
                    if name in watcher.layers:
                        layers[name] = calibrated(layers[name], linear.weight.detach().T.float(), watcher.layers[name])
                gc.collect()
            attention |= _attention(place, stage.module, draft.recipe, watcher)
    return ComponentPlan(layers, attention)


def _attention(
    place: str, module: torch.nn.Module, recipe: ComponentRecipe, watcher: Watcher
) -> dict[str, AttentionPlan]:
    """The plans of a stage's attention products; query and key are met scaled by d^(-1/4), as the graph has them."""
    plans = {}
    for name, child in module.named_modules():
        place_name = f"{place}.{name}"
        if isinstance(child, AttentionProduct) and place_name in watcher.attention:
            seen = watcher.attention[place_name]
            query, key, value = seen.amax
            scale = seen.head_size**-0.25
            plans[place_name] = AttentionPlan(place_name, recipe.dtype, (query * scale, key * scale, value))
    return plans
