"""training's commands: `init` and `train`."""

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
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a field, e.g. schedule.steps=1000")


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

    scores = Trainer(recipe, make_stage(recipe, output), output, progress=not getattr(arguments, "quiet", False)).run()
    lines = [f"{recipe.name}: {recipe.schedule.steps} steps done, in {output}"]
    lines += [f"  {name}: {value:.4g}" for name, value in scores.items()]
    return Outcome({"recipe": recipe.name, "output": str(output), "steps": recipe.schedule.steps, "scores": scores}, lines)
