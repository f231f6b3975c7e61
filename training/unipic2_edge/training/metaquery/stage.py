"""The MetaQuery stage: queries, connector and projectors learn to tell the denoiser what the language model knows.

Flow matching on generation and editing together; language model, denoiser and autoencoder stay as they are, and
gradients run through the first two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoint import save_checkpoint
from ..errors import RecipeError
from ..examination import Examination
from ..flow import Condition, velocity_loss
from ..loop.stage import Stage
from ..recipe import Recipe
from ..shapes.captions import training_caption
from ..shapes.edits import training_edit
from ..shapes.render import Picture, render
from ..shapes.scene import Canvas, Scene, sample_scene
from ..transformer import KontextTransformer
from .alignment import TextTeacher
from .checkpoint import ConditionerPart, MetaqueryCheckpoint
from .conditioner import MetaQueryConditioner
from .configs import METAQUERY
from .pipeline import MetaqueryPipeline, QueryingConditioner
from .querying import Querying

_EVALUATED = 72  # pictures of each task at every look
_STEPS, _GUIDANCE = 28, 3.5


@dataclass(frozen=True)
class Lesson:
    """A micro-batch: texts, pictures that they should make, pictures that they edit (or none), and its noise."""

    texts: list[str]
    targets: list[Picture]
    sources: list[Picture] | None
    generator: torch.Generator


class MetaqueryStage(Stage):
    """Trains the conditioner of a MetaQuery checkpoint.

    `recipe.init` names a folder with transformer/, vae/, scheduler/ and qwen2_5_vl/; if it has a conditioner/,
    training goes on from it, else the conditioner starts anew, projectors 2 and 3 at zero. If the folder also has the
    denoiser's text encoders, their biases are what those say on average: a denoiser that was never shown zeros is then
    not far from home.
    """

    def __init__(self, recipe: Recipe, output: Path) -> None:
        self.recipe = recipe
        self.checkpoint = MetaqueryCheckpoint.open(Path(recipe.init or ""), partial=True)
        torch.manual_seed(recipe.seed)
        self.teacher = TextTeacher.of(self.checkpoint)
        conditioner = self._conditioner()
        if recipe.alignment.steps:
            self._aligned().check(len(conditioner.meta_queries))
        qwen = self.checkpoint.load_qwen(getattr(torch, recipe.frozen_dtype))
        querying = Querying(qwen, self.checkpoint.chat(), self.checkpoint.sight())
        self.model: nn.Module = QueryingConditioner(conditioner.train(), querying)
        self.frozen = MetaqueryPipeline(
            self._denoiser().requires_grad_(False),
            self.checkpoint.load_vae().requires_grad_(False),
            self.checkpoint.load_scheduler(),
            self.model,
        )
        if recipe.gradient_checkpointing:
            self.frozen.transformer.enable_gradient_checkpointing()
        self.querying = querying
        self.canvases = [Canvas(*size) for size in recipe.data.sizes]

    def _denoiser(self) -> KontextTransformer:
        return self.checkpoint.load_transformer(getattr(torch, self.recipe.frozen_dtype))

    def _conditioner(self) -> MetaQueryConditioner:
        if self.checkpoint.has("conditioner"):
            return self.checkpoint.load_meta_conditioner()
        conditioner: MetaQueryConditioner = MetaQueryConditioner(**METAQUERY[self.recipe.config].conditioner)
        if self.teacher is not None:
            with torch.no_grad():
                conditioner.projector_2.bias.copy_(self.teacher.mean_pooled)
                conditioner.projector_3.bias.copy_(self.teacher.mean_context)
        return conditioner

    def losses(self, step: int, device: torch.device) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """The loss of one micro-batch of one task each: flow matching's, or at first the alignment's."""
        self._to(device)
        count = self.recipe.gradient_accumulation
        for micro in range(count):
            lesson = self._lesson(step * count + micro)
            aligning = step < self.recipe.alignment.steps
            loss = self._alignment_loss(lesson) if aligning else self._flow_loss(lesson)
            name = f"{'edit' if lesson.sources else 'generate'}_{'alignment' if aligning else 'loss'}"
            yield loss, {name: float(loss.detach()) * count}

    def _lesson(self, number: int) -> Lesson:
        """Micro-batch `number` of the run: what is said, what it should make, and what that starts from."""
        data = self.recipe.data
        rng = np.random.default_rng([self.recipe.seed, number])
        edit = int((number + 1) * data.edit_share) > int(number * data.edit_share)
        canvas = self.canvases[int(rng.choice(len(self.canvases), p=_shares(data.size_weights)))]
        texts, targets, sources = self._examples(rng, canvas, edit)
        dropped = rng.random(self.share.total(len(texts)))[self.share.rows(len(texts))] < data.prompt_dropout
        said = ["" if drop else text for text, drop in zip(texts, dropped, strict=True)]
        return Lesson(said, targets, sources, torch.Generator().manual_seed(int(rng.integers(2**62))))

    def _alignment_loss(self, lesson: Lesson) -> Tensor:
        context, pooled = self.model(self.querying.prompts(lesson.texts, lesson.sources))
        return self._aligned().loss(lesson.texts, context, pooled)

    def _flow_loss(self, lesson: Lesson) -> Tensor:
        """Through the frozen denoiser."""
        context, pooled = self.model(self.querying.prompts(lesson.texts, lesson.sources))
        condition = Condition(context, pooled, self._reference(lesson))
        latents = self.frozen.encode(lesson.targets).clone()
        return velocity_loss(
            self.frozen.transformer, self.recipe.flow, latents, condition, lesson.generator, self.share
        )

    def _reference(self, lesson: Lesson) -> Tensor | None:
        return self.frozen.encode(lesson.sources).clone() if lesson.sources is not None else None

    def _aligned(self) -> TextTeacher:
        if self.teacher is None:
            raise RecipeError(
                f"{self.checkpoint.folder} has no text encoders to align with",
                "copy the denoiser's text encoders and tokenizers there, or set alignment.steps = 0",
            )
        return self.teacher

    def _examples(
        self, rng: np.random.Generator, canvas: Canvas, edit: bool
    ) -> tuple[list[str], list[Picture], list[Picture] | None]:
        """Texts, what they should make, and what they start from: this process's share of what is drawn for all."""
        count, mine = self.share.total(self.recipe.batch_size), self.share.rows(self.recipe.batch_size)
        if edit:
            edits = [training_edit(rng, canvas) for _ in range(count)][mine]
            sources = [render(each.source) for each in edits]
            return [each.text for each in edits], [render(each.target) for each in edits], sources
        told: list[tuple[str, Scene]] = []
        while len(told) < count:
            scene = sample_scene(rng, canvas)
            caption = training_caption(scene, rng)
            if caption is not None:
                told.append((caption.text, scene))
        return [text for text, _ in told[mine]], [render(scene) for _, scene in told[mine]], None

    def _to(self, device: torch.device) -> None:
        if self.frozen.device != device:
            self.frozen.transformer.to(device)
            self.frozen.vae.to(device)
            self.querying.to(device)

    def flops(self) -> float:
        """Counted on the meta device."""
        from ..planning.dry_run import planned_flops  # which imports every stage's models

        return planned_flops(self.recipe)

    def samples(self, folder: Path, step: int) -> dict[str, float]:
        """Generate and edit on unseen prompts with the deployed settings; scores of both tasks."""
        self._to(next(self.model.parameters()).device)
        return Examination(self.canvases[0], _EVALUATED).take(self._draw, folder / f"step-{step:07d}.png")

    def _draw(self, texts: list[str], sources: list[Picture] | None) -> list[Picture]:
        config, canvas = self.frozen.vae.config, self.canvases[0]
        side = 2 ** (len(config.block_out_channels) - 1)
        shape = (len(texts), config.latent_channels, canvas.height // side, canvas.width // side)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(5))
        return self.frozen(texts, noise, sources, num_inference_steps=_STEPS, guidance_scale=_GUIDANCE)[0]

    def finish(self, output: Path) -> None:
        """Write the whole checkpoint, frozen parts included, to `<output>/checkpoint`."""
        canvas = self.canvases[0]
        common = {
            "height": canvas.height,
            "width": canvas.width,
            "num_inference_steps": _STEPS,
            "guidance_scale": _GUIDANCE,
        }
        defaults = self.checkpoint.defaults() or {"generate": common, "edit": common}
        save_checkpoint(output / "checkpoint", self.checkpoint, defaults, replace=True, **self._parts())

    def _parts(self) -> dict[str, Any]:
        """What was trained, to be saved."""
        model: Any = self.model
        return {"conditioner": ConditionerPart(model.conditioner)}


def _shares(weights: tuple[float, ...]) -> list[float]:
    return [weight / sum(weights) for weight in weights]
