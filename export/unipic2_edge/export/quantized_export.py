"""The whole way from a checkpoint to a bundle that says what it lost: plan, calibrate, write, judge."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from unipic2_edge.runtime.bundle import Bundle, Manifest
from unipic2_edge.runtime.errors import RequestError
from unipic2_edge.training.checkpoint import Checkpoint

from .builtin_recipes import find_recipe
from .bundle_writer import write_bundle
from .components import check_components, components_of
from .quality import write_judgement
from .quantization.auto import Budget, Search, find
from .quantization.calibration_set import CalibrationSet, open_calibration_set
from .quantization.fake import ComponentPlan
from .quantization.gate import Gate, Judgement, check, exact_pipeline, judgement
from .quantization.planning import make_plans
from .recipes import Recipe
from .reference_pipeline import Reference

Advance = Callable[[str], None]


@dataclass(frozen=True)
class Exported:
    """A bundle that was written: its manifest, the recipe as it was in the end, and what the gate found."""

    manifest: Manifest
    recipe: Recipe
    judged: Judgement | None


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    Attributes:
        components: which parts; where none is named, all.
        calibration: a folder to calibrate on, instead of the shapes world.
        gate: whether the bundle is judged; without, nothing but its format is checked.
        budget: of the recipe that is to be found; None takes the recipe as it is.
        formats: the recipes that such a recipe is put together from, the smallest first.
    """

    components: tuple[str, ...] = ()
    calibration: Path | None = None
    gate: bool = True
    budget: Budget | None = None
    formats: tuple[str, ...] = ("int4", "int8")


def export_bundle(
    checkpoint: Checkpoint,
    folder: Path,
    recipe: Recipe,
    options: ExportOptions | None = None,
    done: Advance = lambda name: None,
) -> Exported:
    """Export a checkpoint, quantised or not.

    Raises:
        RequestError: an unknown component; the gate is asked for without all components.
        RecipeError: a pattern fits no layer, an empty calibration set.
        CheckpointError: the checkpoint lacks a part, or its weights are not finite.
        OutputError: the folder exists and is not empty, or cannot be written.
        WorkError: calibration met NaN, the bundle misses its gate, the disk is full.
    """
    options, everything = options or ExportOptions(), components_of(checkpoint)
    options = replace(options, components=options.components or everything)
    check_components(checkpoint, options.components)
    if not recipe.quantized and options.budget is None:
        return Exported(write_bundle(checkpoint, folder, recipe, options.components, done), recipe, None)
    whole = set(options.components) == set(everything)
    if options.gate and not whole:
        raise RequestError("the gate makes whole pictures", "export all components, or give --no-gate")
    with ExitStack() as stack:
        needs_reference = options.gate or options.budget is not None or _calibrated(recipe, options.components)
        reference = stack.enter_context(Reference(checkpoint)) if needs_reference else None
        return _quantized(checkpoint, folder, recipe, options, reference, done)


def _quantized(
    checkpoint: Checkpoint,
    folder: Path,
    recipe: Recipe,
    options: ExportOptions,
    reference: Reference | None,
    done: Advance,
) -> Exported:
    chosen, gate = None, None
    if reference is not None:
        chosen = open_calibration_set(recipe.calibration, reference.manifest, options.calibration)
        gate = Gate(reference, chosen, done) if options.gate or options.budget is not None else None
        if options.budget is not None and gate is not None:
            recipe = find(_search(checkpoint, reference, chosen, gate, recipe, options), recipe, options.budget, done)
    plans = make_plans(checkpoint, recipe, options.components, reference, chosen, done)
    judge = _Judge(gate, recipe, plans, folder) if options.gate and gate is not None else None
    manifest = write_bundle(
        checkpoint,
        folder,
        recipe,
        options.components,
        done,
        plans,
        None if chosen is None else chosen.sha256,
        judge,
    )
    return Exported(manifest, recipe, None if judge is None else judge.judged)


def _calibrated(recipe: Recipe, components: tuple[str, ...]) -> bool:
    return any(recipe.of(component).calibrated for component in components)


def _search(
    checkpoint: Checkpoint,
    reference: Reference,
    chosen: CalibrationSet,
    gate: Gate,
    recipe: Recipe,
    options: ExportOptions,
) -> Search:
    precision = recipe.of("denoiser").precision
    formats = tuple(find_recipe(name).with_precision(precision) for name in options.formats)
    return Search(checkpoint, reference, chosen, gate, formats, recipe.gate.prompts or 48)


class _Judge:
    """The gate as the writer calls it: measures the finished folder, leaves `quality.json` in it, and may refuse it."""

    def __init__(self, gate: Gate, recipe: Recipe, plans: dict[str, ComponentPlan], folder: Path) -> None:
        self.judged: Judgement | None = None
        self._gate, self._recipe, self._plans, self._folder = gate, recipe, plans, folder

    def __call__(self, written: Path) -> None:
        bundle, gate, limits = Bundle(written), self._gate, self._recipe.gate
        stages = [gate.fake(self._plans), gate.onnx(bundle), gate.engine(bundle)]
        scores = {}
        if limits.prompts and self._recipe.calibration.source == "shapes":
            runs = stages[1].velocity is not None
            prepares = {name: plan.prepare for name, plan in self._plans.items()}
            pipeline = exact_pipeline(bundle) if runs else gate.reference.pipeline(prepares)
            scores = gate.scores(pipeline, limits.prompts)
        self.judged = judgement(stages, scores, limits)
        write_judgement(bundle, self.judged)
        check(self.judged, self._folder)
