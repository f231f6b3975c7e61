"""The joint stage: queries, connector and denoiser learn together, the language model still frozen.

UniPic 2.0 (arXiv 2509.04548) ends with it: once the connector is aligned, the denoiser is unfrozen. One module holds
both, so that processes come together around one call.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RecipeError
from ..flow import Condition, velocity_loss
from ..recipe import Recipe
from ..transformer import KontextTransformer
from .checkpoint import ConditionerPart
from .pipeline import QueryingConditioner
from .querying import Prompts
from .stage import Lesson, MetaqueryStage


class JointModel(nn.Module):
    """Conditioner and denoiser: prompts, noisy latents and their reference → velocity [B, C, h, w]."""

    def __init__(self, conditioner: QueryingConditioner, transformer: KontextTransformer) -> None:
        super().__init__()
        self.conditioner, self.transformer = conditioner, transformer

    def forward(self, prompts: Prompts, noisy: Tensor, times: Tensor, reference: Tensor | None) -> Tensor:
        """One micro-batch at timesteps [B]."""
        context, pooled = self.conditioner(prompts)
        velocity: Tensor = self.transformer(noisy, context, pooled, times, reference, return_dict=False)[0]
        return velocity


class _Told(nn.Module):
    """The joint model as a denoiser that has been told its prompts."""

    def __init__(self, model: nn.Module, prompts: Prompts) -> None:
        super().__init__()
        self._held = (model, prompts)

    def forward(
        self, noisy: Tensor, context: Tensor, pooled: Tensor, times: Tensor, reference: Tensor | None, **options: Any
    ) -> tuple[Tensor]:
        """Context and pooled come from the prompts instead."""
        model, prompts = self._held
        return (model(prompts, noisy, times, reference),)


class JointStage(MetaqueryStage):
    """Trains the conditioner and the denoiser of a MetaQuery checkpoint that has both.

    Raises:
        RecipeError: the checkpoint has no conditioner, or the recipe asks for the alignment's steps.
    """

    def __init__(self, recipe: Recipe, output: Path) -> None:
        if recipe.alignment.steps:
            raise RecipeError("alignment is for a frozen denoiser", "set alignment.steps = 0 in the joint stage")
        super().__init__(recipe, output)
        if not self.checkpoint.has("conditioner"):
            raise RecipeError(
                f"{self.checkpoint.folder} has no conditioner to go on from", "train the metaquery stage first"
            )
        transformer: Any = self.frozen.transformer.requires_grad_(True)
        if recipe.compile:
            transformer.compile_blocks()
        self.model = JointModel(self.frozen.conditioner, transformer)

    def _denoiser(self) -> KontextTransformer:
        """In float32, as it is trained."""
        return self.checkpoint.load_transformer()

    def _flow_loss(self, lesson: Lesson) -> Tensor:
        """Through the denoiser to the queries, both with gradients."""
        prompts = self.querying.prompts(lesson.texts, lesson.sources)
        latents = self.frozen.encode(lesson.targets).clone()
        nothing = torch.empty(0, device=latents.device)
        condition = Condition(nothing, nothing, self._reference(lesson))
        told = _Told(self.model, prompts)
        return velocity_loss(told, self.recipe.flow, latents, condition, lesson.generator, self.share)

    def _parts(self) -> dict[str, Any]:
        model: Any = self.model
        return {
            "conditioner": ConditionerPart(model.conditioner.conditioner),
            "transformer": copy.deepcopy(model.transformer).float(),
        }
