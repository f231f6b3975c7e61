"""The distillation stage: a few-step, guidance-free student of a Kontext checkpoint, exported like any other.

    unipic2-edge train shapes-kontext-8step     # in runs/shapes-kontext-8step/checkpoint

Its checkpoint carries its own scheduler and defaults, so that the runtime takes the right steps and one row by itself.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoint import Checkpoint, save_checkpoint
from ..data.examples import ShardExamples
from ..data.probe import framed
from ..errors import RecipeError
from ..examination import Draw, Examination
from ..flow import Condition
from ..grids import save_grid
from ..latent_shards import LatentShards
from ..loop.stage import Stage, Stateful
from ..pipeline import KontextPipeline
from ..recipe import Recipe
from ..shapes.render import Picture
from ..shapes.scene import Canvas
from ..variants import Variants
from .cdm import Draws, Voices, draw_anchor, fake_loss, student_loss
from .drawing import VariantDenoiser, draw
from .grid import deployed_levels, student_scheduler
from .targets import target_loss
from .trajectory import trajectory_losses
from .velocities import Asked, Velocity, guided

_STUDENT, _FAKE = "student", "fake"
_TEACHER_STEPS, _TEACHER_GUIDANCE = 28, 3.5  # where the teacher's checkpoint does not say


class DistillationStage(Stage):
    """Trains a student of the checkpoint that `recipe.init` names.

    Raises:
        RecipeError: the checkpoint is no Kontext one.
        CheckpointError: it is missing, not whole or damaged.
    """

    idle_parameters = True  # CDM's student rests every second step

    def __init__(self, recipe: Recipe, output: Path) -> None:
        self.recipe, self.settings, self.output = recipe, recipe.distillation, output
        self.checkpoint = Checkpoint.open(Path(recipe.init or ""))
        if self.checkpoint.variant != "kontext":
            raise RecipeError(f"{self.checkpoint.folder} is no Kontext checkpoint", "set init to one")
        torch.manual_seed(recipe.seed)
        self.teacher = KontextPipeline(self.checkpoint, words_dtype=getattr(torch, recipe.frozen_dtype))
        self.teacher.vae.requires_grad_(False)
        self.teacher.conditioner.requires_grad_(False)
        self.variants = self._variants()
        self.model: nn.Module = self.variants
        self.scheduler = student_scheduler(self.settings.steps, self.settings.shift)
        self.levels = deployed_levels(self.scheduler, self.settings.steps)
        self.canvas = Canvas(*recipe.data.sizes[0])
        self.shards = LatentShards.of(recipe, output / "latents", self.teacher.vae, self.teacher.tokenize)
        self.examples = self._examples(output) if recipe.data.kind == "shards" else None

    def _examples(self, output: Path) -> ShardExamples:
        teacher = self.teacher
        return ShardExamples(self.recipe, self.checkpoint, teacher.vae, teacher.conditioner, teacher.tokenize, output)

    def stateful(self) -> Sequence[Stateful]:
        """Where the streams of shards stand."""
        return () if self.examples is None else (self.examples.begin(self.share),)

    def _variants(self) -> Variants:
        names = [_STUDENT, _FAKE] if self.settings.method == "cdm" else [_STUDENT]
        variants = Variants(
            self.teacher.transformer, names, None if self.settings.full else self.settings.adapter, names
        )
        if self.recipe.gradient_checkpointing:
            variants.enable_gradient_checkpointing()
        if self.recipe.compile:
            variants.compile_blocks()
        return variants

    def rate(self, name: str) -> float:
        """The fake learns at its own rate."""
        return self.settings.fake_rate if self.variants.variant_of(name) == _FAKE else 1.0

    def losses(self, step: int, device: torch.device) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """Those of one micro-batch of one task each, by the recipe's method."""
        self._to(device)
        count, data = self.recipe.gradient_accumulation, self.recipe.data
        for micro in range(count):
            number = step * count + micro
            rng = np.random.default_rng([self.recipe.seed, number])
            edit = int((number + 1) * data.edit_share) > int(number * data.edit_share)
            latents, condition = self._given(rng, step, edit, device)
            seed = int(rng.integers(2**62)) + self.share.rank  # rows are shared out, noise is drawn apart
            draws = Draws(torch.Generator().manual_seed(seed), device)
            asked, noise = self._asked(condition), draws.noise(latents)
            if self.settings.method == "cdm":
                yield from self._cdm(asked, noise, draws, step)
            else:
                for loss in self._regression(asked, latents, noise, draws, rng):
                    yield loss, {"edit_loss" if edit else "generate_loss": float(loss.detach()) * count}

    def _regression(
        self, asked: Asked, latents: Tensor, noise: Tensor, draws: Draws, rng: np.random.Generator
    ) -> Iterator[Tensor]:
        """On the teacher's steps, all of a rollout; by the method `targets`, at one point of it.

        That point is the same in all processes: where weights are sharded, they must ask the denoiser equally often.
        """
        if self.settings.method == "targets":
            return iter([self._target(asked, latents, noise, 1 + int(rng.integers(self.settings.steps)))])
        return self._trajectory(asked, noise, draws.uniform(len(noise)) < self.settings.led_share)

    def _target(self, asked: Asked, latents: Tensor, noise: Tensor, point: int) -> Tensor:
        """At the rollout's `point`-th level, from 1: edits on their targets, generation on what the teacher says."""
        target = self._teacher(asked) if asked.condition.reference is None else latents
        return target_loss(asked.velocity(_STUDENT), noise, self.levels[:point], target)

    def _trajectory(self, asked: Asked, noise: Tensor, led: Tensor) -> Iterator[Tensor]:
        settings, student = self.settings, asked.velocity(_STUDENT)
        return trajectory_losses(
            student, self._teacher(asked), noise, self.levels, settings.substeps, settings.shift, led
        )

    def _teacher(self, asked: Asked) -> Velocity:
        """With the recipe's guidance, if that is any."""
        guidance = self.settings.guidance
        return guided(asked.pair(None), guidance) if guidance > 1 else asked.velocity(None)

    def _cdm(self, asked: Asked, noise: Tensor, draws: Draws, step: int) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """The fake's loss; every second step the student's too."""
        voices = Voices(asked.velocity(_STUDENT), asked.velocity(None), asked.pair(None), asked.velocity(_FAKE))
        anchor = draw_anchor(voices.student, noise, self.settings.rollout_steps, draws)
        loss = fake_loss(voices.fake, voices.student, anchor, draws)
        yield loss, {"fake_loss": float(loss.detach())}
        if step % 2:
            yield student_loss(voices, anchor, self.settings.guidance - 1, draws)

    @torch.no_grad()
    def _given(self, rng: np.random.Generator, step: int, edit: bool, device: torch.device) -> tuple[Tensor, Condition]:
        """A micro-batch's latents, of which only the shape is looked at, and what the denoiser is told."""
        size, data = self.recipe.batch_size, self.recipe.data
        if self.examples is not None:
            return self.examples.batch(edit, np.zeros(size, bool), device)
        available = self.shards.reached(step, data.cached_pairs)
        batch = self.shards.batch(rng, available, size, edit, device, self.share)
        context, pooled = self.teacher.conditioner(batch.ids)
        return batch.latents, Condition(context.float(), pooled.float(), batch.reference)

    @torch.no_grad()
    def _asked(self, condition: Condition) -> Asked:
        """The condition beside the empty prompt's, which sees the same reference."""
        rows, device = len(condition.context), condition.context.device
        empty = tuple(part.to(device) for part in self.teacher.tokenize([""]))
        context, pooled = (part.float() for part in self.teacher.conditioner(empty))
        negative = Condition(context.expand(rows, -1, -1), pooled.expand(rows, -1), condition.reference)
        return Asked(self.model, condition, negative)

    def after_step(self, step: int) -> None:
        """φ ← decay·φ + (1 − decay)·θ (CDM)."""
        if self.settings.method == "cdm":
            self.variants.blend(_FAKE, _STUDENT, self.settings.fake_decay)

    def _to(self, device: torch.device) -> None:
        if self.teacher.vae.device != device:
            self.teacher.vae.to(device)
            self.teacher.conditioner.to(device)

    def samples(self, folder: Path, step: int) -> dict[str, float]:
        """Scores of the student as deployed, beside the teacher's with guidance, taken once; or the data's records."""
        self._to(next(self.model.parameters()).device)
        if self.examples is not None and self.recipe.data.shards.judge == "probe":
            return self._probed(self.examples, folder / f"step-{step:07d}.png")
        examination = Examination(self.canvas, self.settings.evaluated)
        path = folder / f"step-{step:07d}.png"
        scores = examination.take(self._drawing(_STUDENT, self.settings.steps, 1.0), path)
        return scores | {f"teacher_{name}": value for name, value in self._yardstick(examination, folder).items()}

    def _probed(self, examples: ShardExamples, path: Path) -> dict[str, float]:
        """On the data's first records: distance from what the student is told, and a grid with what the data has."""
        losses: dict[str, float] = {}
        rows: list[Picture] = []
        device = next(self.model.parameters()).device
        for probe in examples.probes():
            none = np.zeros(len(probe.samples), bool)
            latents, condition = examples.encoded(probe.samples, probe.edit, none, device)
            noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(5)).to(device)
            losses["edit_probe_loss" if probe.edit else "generate_probe_loss"] = self._distance(
                self._asked(condition), latents, noise
            )
            sources = probe.pictures(0) if probe.edit else None
            size = probe.samples[0].size
            rows += probe.rows(draw(self._speaking(_STUDENT), probe.texts, sources, size, self.settings.steps, 1.0))
        save_grid(path, framed(rows), columns=6)
        return losses

    def _distance(self, asked: Asked, latents: Tensor, noise: Tensor) -> float:
        """All losses of a rollout, added up; by `trajectory`, led by the teacher's guided steps."""
        if self.settings.method == "targets":
            return sum(float(self._target(asked, latents, noise, 1 + step)) for step in range(self.settings.steps))
        led = torch.ones(len(noise), dtype=torch.bool, device=noise.device)
        return sum(float(part) for part in self._trajectory(asked, noise, led))

    def _yardstick(self, examination: Examination, folder: Path) -> dict[str, float]:
        """The teacher's scores by its own defaults, kept beside the samples."""
        default = self.checkpoint.defaults().get("generate", {})
        steps = int(default.get("num_inference_steps", _TEACHER_STEPS))
        guidance = float(default.get("guidance_scale", _TEACHER_GUIDANCE))
        asked = {"steps": steps, "guidance": guidance, "pictures": examination.count}
        kept = folder / "teacher.json"
        if kept.is_file():
            content: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
            if content["asked"] == asked:
                scores: dict[str, float] = content["scores"]
                return scores
        scores = examination.take(self._drawing(None, steps, guidance), folder / "teacher.png")
        temporary = kept.with_suffix(".tmp")
        temporary.write_text(json.dumps({"asked": asked, "scores": scores}), encoding="utf-8")
        temporary.replace(kept)
        return scores

    def _drawing(self, variant: str | None, steps: int, guidance: float) -> Draw:
        size = (self.canvas.width, self.canvas.height)
        return partial(draw, self._speaking(variant), size=size, steps=steps, guidance=guidance)

    def _speaking(self, variant: str | None) -> KontextPipeline:
        """The teacher's pipeline with a variant as its denoiser; the student brings its own levels."""
        pipeline = copy.copy(self.teacher)
        pipeline.transformer = VariantDenoiser(self.model, variant)
        if variant == _STUDENT:
            pipeline.scheduler = self.scheduler
        return pipeline

    def finish(self, output: Path) -> None:
        """Write the whole checkpoint, with the student's scheduler and defaults, to `<output>/checkpoint`."""
        deployed = {"num_inference_steps": self.settings.steps, "guidance_scale": 1.0}
        size = {"height": self.canvas.height, "width": self.canvas.width}
        teacher = self.checkpoint.defaults()
        defaults = {task: size | teacher.get(task, {}) | deployed for task in ("generate", "edit")}
        whole: Any = self.model
        parts = {"transformer": whole.merged(_STUDENT).float(), "scheduler": self.scheduler}
        save_checkpoint(output / "checkpoint", self.checkpoint, defaults, replace=True, **parts)
