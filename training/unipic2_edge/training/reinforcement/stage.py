"""The reinforce stage: the denoiser of a checkpoint learns online from rewards, in editing, generation or both."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel

from ..checkpoint import Checkpoint, save_checkpoint
from ..errors import RecipeError
from ..flow import attention_backends
from ..grids import save_grid
from ..loop.stage import Stage, Stateful
from ..recipe import Recipe
from ..rewards.raters import Raters
from ..rewards.registry import Tables, make_reward
from ..shapes.scene import Canvas
from ..variants import Variants
from .algorithm import POLICY, Algorithm, Items
from .diffusion_nft import DiffusionNft, levels_of
from .episodes import Director, Drawn, Studio
from .flow_grpo import FlowGrpo
from .memory import Memory
from .prompts import make_prompts
from .settings import Reinforce

_SHOWN = 32  # pictures of each task in a sample grid


def make_algorithm(settings: Reinforce) -> Algorithm:
    """The recipe's."""
    return FlowGrpo(settings) if settings.algorithm == "flow-grpo" else DiffusionNft(settings)


class ReinforceStage(Stage):
    """Draws an episode every `updates` steps and learns from it until the next.

    `recipe.init` names a whole checkpoint; the second of two stages starts from the first one's.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.settings = recipe, recipe.reinforce
        self.checkpoint = Checkpoint.open(Path(recipe.init or ""), partial=True)
        self.prompts = make_prompts(self.settings)
        tables = Tables(geneval=self.settings.geneval, judge=self.settings.judge)
        self.reward = make_reward(self.settings.rewards, tables)
        self.algorithm = make_algorithm(self.settings)
        raters = Raters(
            self.reward, self.settings.reward_workers, self.settings.reward_timeout, self.settings.reward_retries
        )
        self.studio = Studio(self.checkpoint, getattr(torch, recipe.frozen_dtype))
        self.director = Director(self.settings, self.studio, raters, self.algorithm, recipe.batch_size)
        torch.manual_seed(recipe.seed)
        self.model: nn.Module = self._variants()
        self.canvases = [Canvas(*size) for size in recipe.data.sizes]
        self.memory = Memory()
        self._updated = 0.0
        self._check()

    def _check(self) -> None:
        """Every micro-batch has something to learn from."""
        settings = self.settings
        if settings.algorithm == "flow-grpo":
            each = min(settings.noise.window or settings.steps - 1, settings.steps - 1)
        else:
            each = min(settings.nft.times, len(levels_of(settings.nft, self.studio.sigmas(settings.steps))))
        items, parts = (
            settings.groups * settings.group_size * each,
            settings.updates * self.recipe.gradient_accumulation,
        )
        if items < parts:
            raise RecipeError(
                f"an episode of {items} pictures and noise levels cannot be divided into {parts} micro-batches",
                "raise reinforce.groups, or lower reinforce.updates or gradient_accumulation",
            )

    def _variants(self) -> Variants:
        adapter = self.settings.lora if self.settings.weights == "lora" else None
        variants = Variants(self.checkpoint.load_transformer(), self.algorithm.variants, adapter, [POLICY])
        if self.recipe.gradient_checkpointing:
            variants.enable_gradient_checkpointing()
        if self.recipe.compile:
            variants.compile_blocks()
        return variants

    def losses(self, step: int, device: torch.device) -> Iterator[tuple[Tensor, dict[str, float]]]:
        """The algorithm's loss on one share of the episode's items each."""
        settings, accumulation = self.settings, self.recipe.gradient_accumulation
        number, update = divmod(step, settings.updates)
        if self.memory.number != number:
            self.memory.put(number, self._episode(number, device))
        drawn = self.memory.drawn(device)
        generator = self._generator(number, 0)
        items = self.algorithm.items(drawn.episode, generator)
        order = torch.randperm(len(items.pictures), generator=generator)
        shares = order.tensor_split(settings.updates * accumulation)
        started = time.perf_counter()
        for micro in range(accumulation):
            index = update * accumulation + micro
            part = Items(items.pictures[shares[index]], items.places[shares[index]])
            with sdpa_kernel(
                attention_backends(device)
            ):  # of the backward pass too: checkpointed blocks run there again
                loss, metrics = self.algorithm.loss(self.model, drawn.episode, part, self._generator(number, 1 + index))
                yield loss, drawn.metrics | metrics | {"seconds_updating": self._updated}
        self._updated = time.perf_counter() - started

    def _episode(self, number: int, device: torch.device) -> Drawn:
        self.studio.to(device)
        settings, share = self.settings, self.share
        edit = int((number + 1) * settings.edit_share) > int(number * settings.edit_share)
        rng = np.random.default_rng([self.recipe.seed, number])
        weights = np.asarray(self.recipe.data.size_weights)
        canvas = self.canvases[int(rng.choice(len(self.canvases), p=weights / weights.sum()))]
        asked = self.prompts.training(rng, share.total(settings.groups), edit, canvas)[share.rows(settings.groups)]
        return self.director.episode(self.model, asked, canvas, int(rng.integers(2**62)), share)

    def _generator(self, number: int, use: int) -> torch.Generator:
        """Of this process, for one use in one episode."""
        sequence = np.random.SeedSequence([self.recipe.seed, number, self.share.rank, use])
        return torch.Generator().manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1)))

    def after_step(self, step: int) -> None:
        """Whatever the algorithm does between episodes."""
        number, update = divmod(step, self.settings.updates)
        if update == self.settings.updates - 1:
            self.algorithm.after_episode(_plain(self.model), number)
            self.memory.forget()

    def samples_a_step(self) -> int:
        """Pictures of an episode, shared by its updates."""
        return max(1, self.settings.groups * self.settings.group_size // self.settings.updates)

    def stateful(self) -> Sequence[Stateful]:
        """The episode that is being learned from: its pictures were drawn with weights that are no more."""
        return (self.memory,)

    def samples(self, folder: Path, step: int) -> dict[str, float]:
        """Answer the evaluation's requests with the deployed settings; mean rewards, and strict scores of shapes."""
        canvas, settings = self.canvases[0], self.settings
        self.studio.to(next(self.model.parameters()).device)
        scores: dict[str, float] = {}
        shown = []
        for edit, task in ((False, "generation"), (True, "editing")):
            asked = self.prompts.evaluation(settings.evaluated, edit, canvas)
            if not asked:
                continue
            start = self.studio.start(len(asked), canvas, torch.Generator().manual_seed(5))
            model = _Bound(self.model)
            made = self.studio.draw(model, asked, start, settings.deployed, self.recipe.batch_size)
            ratings = self.director.rated(asked, made)
            scores[f"{task}_reward"] = sum(rating.value for rating in ratings) / len(ratings)
            if all("right" in rating.parts for rating in ratings):
                scores[task] = sum(rating.parts["right"] for rating in ratings) / len(ratings)
            for request, picture in list(zip(asked, made, strict=True))[:_SHOWN]:
                shown += [picture] if request.source is None else [request.source, picture]
        if shown:
            save_grid(folder / f"step-{step:07d}.png", shown)
        return scores

    def finish(self, output: Path) -> None:
        """Write the whole checkpoint, LoRA merged, to `<output>/checkpoint`; its defaults are the deployed settings."""
        canvas, deployed = self.canvases[0], self.settings.deployed
        made = {"num_inference_steps": deployed.steps, "guidance_scale": deployed.guidance}
        common: dict[str, Any] = {"height": canvas.height, "width": canvas.width}
        before = self.checkpoint.defaults()
        defaults = {task: common | before.get(task, {}) | made for task in ("generate", "edit")}
        transformer = _plain(self.model).merged(POLICY)
        save_checkpoint(output / "checkpoint", self.checkpoint, defaults, replace=True, transformer=transformer)


class _Bound:
    """The policy with a denoiser's own arguments."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.model(POLICY, *arguments, **options)


def _plain(model: Any) -> Variants:
    """The variants themselves, out of what accelerate may have wrapped around them."""
    variants: Variants = getattr(model, "module", model)
    return variants
