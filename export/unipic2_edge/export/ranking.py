"""A bundle's quantised layers ranked by what each alone costs the denoiser's velocity."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.errors import RequestError
from unipic2_edge.training.checkpoint import Checkpoint

from .bundle_writer import RECIPE
from .quantization.calibration_set import open_calibration_set
from .quantization.gate import Gate
from .quantization.planning import make_plans
from .quantization.sensitivity import layer_errors
from .recipes import Recipe, recipe_from_json
from .reference_pipeline import Reference


def recipe_of(bundle: Bundle) -> Recipe:
    """The recipe that a bundle was made by.

    Raises:
        BundleError: the record is missing or damaged.
        RecipeError: it is of a newer version.
    """
    record: dict[str, Any] = json.loads(bundle.read(RECIPE))
    return recipe_from_json(json.dumps(record["recipe"]).encode(), RECIPE)


def rank_layers(
    bundle: Bundle, checkpoint: Checkpoint, done: Callable[[str], None] = lambda name: None
) -> list[dict[str, object]]:
    """Every quantised layer of the denoiser with the velocity's relative error when it alone is, the worst first.

    Raises:
        RequestError: nothing of the denoiser is quantised.
        WorkError: calibration met NaN or infinity.
    """
    recipe = recipe_of(bundle)
    if not recipe.of("denoiser").quantized:
        raise RequestError(f"nothing of {bundle.folder} is quantised", "export it with a recipe that does, as int8")
    with Reference(checkpoint) as reference:
        chosen = open_calibration_set(recipe.calibration, reference.manifest, None)
        gate = Gate(reference, chosen, done)
        plan = make_plans(checkpoint, recipe, ("denoiser",), reference, chosen, done)["denoiser"]
        spec = next(spec for spec in reference.specs("denoiser") if spec.name == "denoiser")
        errors = layer_errors(spec, plan.layers, gate.calls, done)
    order = sorted(errors, key=lambda name: -errors[name])
    return [{"layer": name, "weights": plan.layers[name].rule.weights, "velocity": errors[name]} for name in order]


def ranking_lines(ranked: list[dict[str, object]]) -> list[str]:
    """The ranking for people."""
    return [f"{'velocity':>9}  {'weights':<7} layer"] + [
        f"{row['velocity']:9.5f}  {row['weights']!s:<7} {row['layer']}" for row in ranked
    ]
