"""The command `export`."""

from __future__ import annotations

import argparse
import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from unipic2_edge.runtime.cli import Outcome

from .lora_argument import add_lora_argument, with_loras

if TYPE_CHECKING:
    from .quantized_export import ExportOptions
    from .recipes import Recipe


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `export`."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="a folder in the published layout")
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="the folder to write; must not exist yet")
    parser.add_argument(
        "--recipe",
        metavar="NAME|FILE",
        default="fp32",
        help="fp32 (default), fp16, bf16, int8, fp8, int4, nvfp4, …; a target's name (rtx-40); a recipe file; one for "
        "each component (denoiser=fp8,vae=fp16); or auto, found for --budget",
    )
    parser.add_argument("--precision", metavar="NAME", help="around what is quantised: fp32, fp16 or bf16")
    parser.add_argument(
        "--components",
        metavar="A,B",
        help="only these of denoiser, vae, text_encoder, text_encoder_2, text_encoder_3",
    )
    add_lora_argument(parser)
    parser.add_argument(
        "--verify",
        action="store_true",
        help="measure the bundle's drift right after, as `verify` does (loads the models in float32)",
    )
    calibration = parser.add_argument_group("calibration and gate, where a recipe quantises")
    calibration.add_argument("--calibration", metavar="DIR", type=Path, help="prompts.txt, edits.txt and its pictures")
    calibration.add_argument("--calibration-prompts", metavar="N", type=int, help="and as many edits (16)")
    calibration.add_argument("--calibration-steps", metavar="N", type=int, help="of the sampler (the model's default)")
    calibration.add_argument("--calibration-size", metavar="WxH", help="of the pictures (the model's default)")
    calibration.add_argument("--no-gate", action="store_true", help="write the bundle however much it lost")
    calibration.add_argument("--gate-prompts", metavar="N", type=int, help="to score, and as many edits (48)")
    calibration.add_argument("--budget", metavar="KIND=AMOUNT", help="of auto: psnr=35, velocity=0.05 or points=1")
    calibration.add_argument("--formats", metavar="A,B", default="int4,int8", help="of auto (int4,int8)")
    calibration.add_argument("--write-recipe", metavar="FILE", type=Path, help="write the recipe as it was used")


def export(arguments: argparse.Namespace) -> Outcome:
    """Convert a checkpoint to a bundle.

    Raises:
        RecipeError, RequestError, CheckpointError, OutputError, WorkError: see `export_bundle`.
        WorkError: with `--verify`, the numbers differ by more than the tolerance.
    """
    from unipic2_edge.runtime.errors import RequestError
    from unipic2_edge.runtime.files import write_bytes
    from unipic2_edge.runtime.progress import progress
    from unipic2_edge.training.metaquery.checkpoint import open_checkpoint

    from .components import components_of
    from .quantized_export import export_bundle

    gc.freeze()  # the libraries' objects stay to the end: neither tracing nor the exit need to go through them
    recipe, options = _recipe(arguments), _options(arguments)
    checkpoint = with_loras(open_checkpoint(arguments.checkpoint, partial=True), arguments)
    components = options.components or components_of(checkpoint)
    if checkpoint.loras and "denoiser" not in components:
        raise RequestError("--lora changes the denoiser, which is not exported", "add denoiser to --components")
    steps = None if recipe.quantized or options.budget is not None else len(components)
    with progress(steps, "component" if steps else "step", arguments) as advance:
        made = export_bundle(checkpoint, arguments.bundle, recipe, options, advance)
    if arguments.write_recipe is not None:
        write_bytes(arguments.write_recipe, made.recipe.to_json())
    manifest = made.manifest
    size = sum(entry.bytes for entry in manifest.files.values())
    result: dict[str, object] = {
        "bundle": str(arguments.bundle),
        "recipe": made.recipe.to_dict(),
        "components": {name: msgspec.to_builtins(component) for name, component in manifest.components.items()},
        "bytes": size,
    }
    lines = [f"{arguments.bundle}: {len(manifest.graphs)} graphs, {size / 1e6:.1f} MB, {made.recipe.name}"]
    if made.judged is not None:
        from .gate_page import gate_lines

        result["gate"] = made.judged.to_dict()
        lines += gate_lines(made.judged)
    if arguments.verify:
        from unipic2_edge.runtime.bundle import Bundle

        from .verify_command import drift_lines, measure, worst

        drifts = measure(Bundle(arguments.bundle), checkpoint, arguments)
        result["worst"] = worst(drifts)
        lines += drift_lines(drifts)
    return Outcome(result, lines)


def _recipe(arguments: argparse.Namespace) -> Recipe:
    """The recipe that was asked for, with what the command line changes of it.

    Raises:
        RecipeError: there is none of that name, or the file is not one.
        RequestError: a size that is none.
    """
    from unipic2_edge.runtime.pictures import parse_size

    from .builtin_recipes import AUTO, find_recipe

    recipe = find_recipe(arguments.recipe) if arguments.recipe != "auto" else AUTO
    if arguments.precision is not None:
        recipe = recipe.with_precision(arguments.precision)
    size = None if arguments.calibration_size is None else parse_size(arguments.calibration_size)
    asked = {"prompts": arguments.calibration_prompts, "steps": arguments.calibration_steps, "size": size}
    if arguments.calibration is not None:
        asked["source"] = "folder"
    calibration = msgspec.structs.replace(recipe.calibration, **_given(asked))
    gate = msgspec.structs.replace(recipe.gate, **_given({"prompts": arguments.gate_prompts}))
    return msgspec.structs.replace(recipe, calibration=calibration, gate=gate)


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _options(arguments: argparse.Namespace) -> ExportOptions:
    """How to export, from the command line.

    Raises:
        RequestError: auto without a budget, a budget without auto.
    """
    from unipic2_edge.runtime.errors import RequestError

    from .quantization.auto import parse_budget
    from .quantized_export import ExportOptions

    if (arguments.recipe == "auto") != (arguments.budget is not None):
        raise RequestError("--recipe auto and --budget go together", "give both, as in --recipe auto --budget psnr=35")
    return ExportOptions(
        components=tuple(arguments.components.split(",")) if arguments.components else (),
        calibration=arguments.calibration,
        gate=not arguments.no_gate,
        budget=None if arguments.budget is None else parse_budget(arguments.budget),
        formats=tuple(arguments.formats.split(",")),
    )
