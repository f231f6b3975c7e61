"""`bench recipes`: what each export recipe loses and saves on a checkpoint with a verifier, on the same prompts.

    unipic2-edge bench recipes CHECKPOINT --recipes int8,fp8,int4 --prompts 600 -o bench/results/<machine>/recipes.json

The bundles stand in `--workdir`, and what was measured before is not measured again: a long table may be interrupted.
Quantised products are computed exactly as the graphs say (`unipic2_edge.export.twin`); with `--precision fp32`, the
default, what is lost is the formats' own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np

from unipic2_edge.engines.engine_set import check_precision
from unipic2_edge.engines.targets import TARGETS
from unipic2_edge.export.builtin_recipes import find_recipe
from unipic2_edge.export.quality import read_gate
from unipic2_edge.export.quantization.gate import exact_pipeline
from unipic2_edge.export.quantization.scoring import Loss, Verdicts, judge, loss
from unipic2_edge.export.quantized_export import ExportOptions, export_bundle
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.errors import WorkError
from unipic2_edge.runtime.files import write_bytes
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.training.checkpoint import Checkpoint

_HEAD = ("recipe", "generation lost", "editing lost", "velocity", "PSNR", "denoiser", "CPU picture", "targets")
_TIMED = 5
Advance = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One recipe.

    Attributes:
        recipe: its name, also of one from a file.
        lost: points lost by task; empty where no library here runs the graphs.
        velocity: mean relative error of the denoiser's velocity, by fake quantisation.
        psnr: in dB, by fake quantisation.
        denoiser_bytes: the denoiser's weights, its modulation included.
        bundle_bytes: all files.
        generate_seconds: of one picture as a processor serves it; None where it does not.
        targets: those that run the recipe's formats.
    """

    recipe: str
    lost: dict[str, Loss]
    velocity: float | None
    psnr: float | None
    denoiser_bytes: int
    bundle_bytes: int
    generate_seconds: float | None
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Settings:
    """What the table is measured with."""

    prompts: int
    precision: str
    threads: int | None


def recipe_rows(
    checkpoint: Checkpoint, recipes: Sequence[str], settings: Settings, workdir: Path, done: Advance
) -> list[Row]:
    """Export and measure every recipe against fp32.

    Raises:
        RecipeError, CheckpointError, OutputError, WorkError: see `export_bundle`.
    """
    exact = _verdicts(checkpoint, "fp32", settings, workdir, done)
    if exact is None:
        raise WorkError("the fp32 bundle does not run", "see `unipic2-edge doctor`")
    return [_row(checkpoint, name, settings, workdir, exact, done) for name in recipes]


def _row(checkpoint: Checkpoint, name: str, settings: Settings, workdir: Path, exact: Verdicts, done: Advance) -> Row:
    made = _verdicts(checkpoint, name, settings, workdir, done)
    bundle = _bundle(checkpoint, name, settings, workdir, done)
    gate = read_gate(bundle) or {}
    fake = msgspec.convert(gate.get("stages", [{}]), list[dict[str, object]])[0]
    pictures = fake.get("pictures")
    lost = {} if made is None else {task: loss(getattr(made, task), getattr(exact, task)) for task in _TASKS}
    return Row(
        recipe=find_recipe(name).name,
        lost=lost,
        velocity=_number(fake.get("velocity")),
        psnr=_number(pictures.get("psnr")) if isinstance(pictures, dict) else None,
        denoiser_bytes=bundle.manifest.files[bundle.manifest.components["denoiser"].weights].bytes,
        bundle_bytes=sum(entry.bytes for entry in bundle.manifest.files.values()),
        generate_seconds=_seconds(bundle, settings.threads),
        targets=runs_on(name),
    )


_TASKS = ("generate", "edit")


def runs_on(name: str) -> tuple[str, ...]:
    """The targets that run a recipe as it is named, its own precision around."""
    recipe = find_recipe(name)
    parts = (recipe.of("denoiser"), recipe.of("text_encoder_3"), recipe.other)
    used: set[str] = {part.precision for part in parts}
    for rule in (rule for part in parts for rule in part.rules):
        used |= {kind for kind in (rule.weights, rule.activations) if kind is not None}
    used |= {"fp8"} if any(part.attention for part in parts) else set()
    return tuple(
        name
        for name, target in TARGETS.items()
        if all(check_precision(precision, target, target.backends[0]) is None for precision in used)
    )


def _bundle(checkpoint: Checkpoint, name: str, settings: Settings, workdir: Path, done: Advance) -> Bundle:
    """The recipe's bundle, exported when it is not there; the gate measures drift and judges nothing."""
    recipe = find_recipe(name)
    folder = workdir / f"{recipe.name}-{settings.precision}"
    if not folder.exists():
        recipe = recipe if name in ("fp32", "cpu") else recipe.with_precision(settings.precision)
        open_gate = msgspec.structs.replace(recipe.gate, velocity=None, psnr=None, points=None, prompts=0)
        export_bundle(checkpoint, folder, msgspec.structs.replace(recipe, gate=open_gate), ExportOptions(), done)
    return Bundle(folder)


def _verdicts(checkpoint: Checkpoint, name: str, settings: Settings, workdir: Path, done: Advance) -> Verdicts | None:
    """What the verifier says of a recipe's pictures, from the last time where there was one."""
    record = workdir / f"{find_recipe(name).name}-{settings.precision}-{settings.prompts}.json"
    if record.is_file():
        return msgspec.json.decode(record.read_bytes(), type=Verdicts | None)
    bundle = _bundle(checkpoint, name, settings, workdir, done)
    try:
        verdicts = judge(exact_pipeline(bundle, settings.threads), settings.prompts, done)
    except WorkError:
        verdicts = None  # no library here runs nvfp4 activations
    write_bytes(record, msgspec.json.encode(verdicts))
    return verdicts


def _seconds(bundle: Bundle, threads: int | None) -> float | None:
    """The median time of one generated picture, as a processor serves it."""
    parts = bundle.manifest.components.values()
    if any(part.precision != "float32" or "nvfp4" in part.formats for part in parts):
        return None
    pipeline = Pipeline.load(bundle.folder, "cpu", threads)
    times = []
    for _ in range(_TIMED + 1):
        start = time.perf_counter()
        pipeline.generate("a red circle", seed=1)
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def table(rows: Sequence[Row]) -> list[str]:
    """The rows as a Markdown table."""
    lines = [f"| {' | '.join(_HEAD)} |", f"|{'---|' * len(_HEAD)}"]
    return lines + [f"| {' | '.join(_cells(row))} |" for row in rows]


def _cells(row: Row) -> tuple[str, ...]:
    lost = [row.lost.get(task) for task in _TASKS]
    return (
        row.recipe,
        *("" if one is None else f"{one.points:+.1f} ({one.at_least:+.1f} sure)" for one in lost),
        "" if row.velocity is None else f"{row.velocity:.3f}",
        "" if row.psnr is None else f"{row.psnr:.1f} dB",
        f"{row.denoiser_bytes / 1e6:.1f} MB",
        "" if row.generate_seconds is None else f"{row.generate_seconds:.2f} s",
        ", ".join(row.targets),
    )


def row_record(row: Row) -> dict[str, object]:
    """JSON-ready fields."""
    return asdict(row)
