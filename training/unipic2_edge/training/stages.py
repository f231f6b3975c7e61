"""The stages by the name a recipe calls them."""

from __future__ import annotations

from pathlib import Path

from .loop.stage import Stage
from .recipe import Recipe


def make_stage(recipe: Recipe, output: Path) -> Stage:
    """Build a recipe's stage; only that stage's libraries are imported."""
    if recipe.stage == "autoencoder":
        from .autoencoder import AutoencoderStage

        return AutoencoderStage(recipe)
    if recipe.stage == "text":
        from .text.stage import TextStage

        return TextStage(recipe, output)
    if recipe.stage == "vision-language":
        from .qwen.stage import VisionLanguageStage

        return VisionLanguageStage(recipe, output)
    if recipe.stage == "metaquery":
        from .metaquery.stage import MetaqueryStage

        return MetaqueryStage(recipe, output)
    if recipe.stage == "distillation":
        from .distillation.stage import DistillationStage

        return DistillationStage(recipe, output)
    if recipe.stage == "metaquery-joint":
        from .metaquery.joint import JointStage

        return JointStage(recipe, output)
    if recipe.stage == "reinforce":
        from .reinforcement.stage import ReinforceStage

        return ReinforceStage(recipe)
    from .denoiser import DenoiserStage

    return DenoiserStage(recipe, output)
