"""training's commands: `train` and `init`."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Outcome:
    """What a command reports: `result` for --json, `lines` for people."""

    result: dict[str, object]
    lines: list[str] = field(default_factory=list)


def train_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `train`."""
    parser.add_argument("recipe", metavar="RECIPE", help="a .toml file, or the name of one in training/recipes/")
    parser.add_argument("--output", metavar="DIR", help="where the run's state, logs, samples and result go")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a field, e.g. schedule.steps=1000",
    )


def train(arguments: argparse.Namespace) -> Outcome:
    """Run a recipe to its end, going on from its last saved state.

    Raises:
        RecipeError: the recipe is wrong.
        InterruptedWorkError: SIGINT or SIGTERM; the state is saved.
    """
    from .recipe import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.set)
    output = Path(arguments.output or recipe.output or f"runs/{recipe.name}")
    if recipe.threads:
        os.environ["OMP_NUM_THREADS"] = str(recipe.threads)
    from .stages import make_stage
    from .trainer import Trainer

    scores = Trainer(recipe, make_stage(recipe, output), output, progress=not arguments.quiet).run()
    lines = [f"{recipe.name}: {recipe.schedule.steps} steps done, in {output}"]
    lines += [f"  {name}: {value:.4g}" for name, value in scores.items()]
    return Outcome(
        {"recipe": recipe.name, "output": str(output), "steps": recipe.schedule.steps, "scores": scores},
        lines,
    )


def init_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `init`."""
    parser.add_argument(
        "config", metavar="CONFIG", help="unipic2-sd3.5m-kontext, unipic2-metaquery, or shapes-… and tiny-… of either"
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="the folder to write")
    parser.add_argument(
        "--components",
        metavar="A,B",
        help="only these of transformer, vae; text_encoder, text_encoder_2, text_encoder_3 (kontext); conditioner, "
        "qwen2_5_vl (metaquery)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")


def init(arguments: argparse.Namespace) -> Outcome:
    """Write random weights in the published layout.

    Raises:
        RequestError: no such config or component.
        OutputError: the folder exists and is not empty.
    """
    import torch

    from .init import init_checkpoint

    components = tuple(arguments.components.split(",")) if arguments.components else None
    dtype = getattr(torch, arguments.dtype)
    checkpoint = init_checkpoint(arguments.config, arguments.checkpoint, components, arguments.seed, dtype)
    size = sum(path.stat().st_size for path in checkpoint.folder.rglob("*") if path.is_file())
    result: dict[str, object] = {
        "checkpoint": str(checkpoint.folder),
        "components": [part for part in checkpoint.layout.models if checkpoint.has(part)],
        "bytes": size,
    }
    return Outcome(result, [f"{checkpoint.folder}: random {arguments.config}, {size / 1e6:.1f} MB"])
