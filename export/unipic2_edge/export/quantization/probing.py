"""Plans for a denoiser of random weights: its layers see noise once, and scales are taken from that without a search.

For engines that are only timed. What they are made of (formats, scales, smoothing) is what a calibrated export has;
how near they come to the checkpoint is not looked after.
"""

from __future__ import annotations

import gc

import numpy as np
import torch

from unipic2_edge.training.checkpoint import Checkpoint

from ..components import graphs_of
from ..graph_specs import GraphSpec
from ..recipes import Recipe
from ..reference import TorchSession, in_memory, linears, place_of
from .calibration import Watcher
from .fake import ComponentPlan
from .layers import plan_layers
from .scaling import unsearched

_COMPONENT = "denoiser"
_SEED = 3
_TOKENS, _CONTEXT = 32, 16  # enough rows for a largest value; the time goes into reading weights
_TIMESTEP = 700.0


def probed_plan(checkpoint: Checkpoint, recipe: Recipe) -> ComponentPlan:
    """The denoiser's plan by a recipe; the checkpoint needs no other component.

    Raises:
        RecipeError: a pattern fits no layer.
        WorkError: a layer met NaN or infinity.
        CheckpointError: the transformer is missing or damaged.
    """
    part = recipe.of(_COMPONENT)
    specs = list(graphs_of(checkpoint, _COMPONENT, torch.float32))
    shapes = {
        name: (linear.in_features, linear.out_features)
        for spec in specs
        for stage in spec.stages
        for name, linear in linears(place_of(spec, stage), stage.module)
    }
    layers = plan_layers(shapes, part)
    watcher = Watcher([name for name, plan in layers.items() if plan.rule.calibrated], False, 2 * _TOKENS, 1)
    _probe({spec.name: spec for spec in specs}, watcher)
    watcher.check_finite()
    for spec in specs:
        for stage in spec.stages:
            place = place_of(spec, stage)
            if any(name in watcher.layers for name, _ in linears(place, stage.module)):
                for name, linear in linears(place, in_memory(stage)):
                    if name in watcher.layers:
                        layers[name] = unsearched(layers[name], linear.weight.detach().T.float(), watcher.layers[name])
                gc.collect()
    return ComponentPlan(layers, {})


def _probe(specs: dict[str, GraphSpec], watcher: Watcher) -> None:
    """Run both graphs once on noise, two rows."""
    random = np.random.default_rng(_SEED)
    widths = {
        name: {spec.name: spec.shape[-1] for spec in graph.inputs if isinstance(spec.shape[-1], int)}
        for name, graph in specs.items()
    }

    def noise(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, dtype=np.float32)

    modulation = TorchSession(specs["modulation"], watcher.prepare)
    prepared = modulation.run({
        "timestep": np.array([_TIMESTEP], np.float32),
        "pooled": noise(2, widths["modulation"]["pooled"]),
        "context": noise(2, _CONTEXT, widths["modulation"]["context"]),
    })  # fmt: skip
    TorchSession(specs["denoiser"], watcher.prepare).run({
        "patches": noise(2, _TOKENS, widths["denoiser"]["patches"]),
        "positions": noise(_TOKENS, widths["denoiser"]["positions"]),
        "context": prepared["embedded_context"],
        "modulation": prepared["modulation"][0],
    })  # fmt: skip
