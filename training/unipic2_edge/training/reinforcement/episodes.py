"""Drawing episodes: prompts are asked, groups of pictures sampled, decoded and, beside that, rated and compared."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate.utils import gather
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel

from ..autoencoder import to_pictures, to_tensor
from ..checkpoint import Checkpoint
from ..errors import SuspendedWorkError, UserError
from ..flow import Condition, attention_backends, sample
from ..loop.share import WHOLE, Share
from ..rewards.raters import Pending, Raters
from ..rewards.reward import Asked, Picture, Rating
from ..shapes.scene import Canvas
from .algorithm import Algorithm, Episode, Told, advantages, equal_groups, velocity
from .rollout import Trajectory, noisy_steps, roll_out
from .settings import Deployed, Reinforce


class Studio:
    """The frozen parts around the denoiser: what conditions it, and what makes pictures of its latents.

    Args:
        checkpoint: a whole one.
        dtype: of the text encoders.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> None:
        self.vae = checkpoint.load_vae().requires_grad_(False)
        self.conditioner = checkpoint.load_conditioner(dtype).requires_grad_(False)
        self.tokenize = checkpoint.tokenizers()
        self.scheduler = checkpoint.load_scheduler()

    def to(self, device: torch.device) -> None:
        """Move all of it."""
        if self.vae.device != device:
            self.vae.to(device)
            self.conditioner.to(device)

    def sigmas(self, steps: int) -> tuple[float, ...]:
        """The scheduler's grid of so many steps, from 1 down to 0."""
        self.scheduler.set_timesteps(steps)
        return tuple(float(sigma) for sigma in self.scheduler.sigmas)

    def start(self, count: int, canvas: Canvas, generator: torch.Generator, share: Share = WHOLE) -> Tensor:
        """Pure noise [count, C, h, w], this process's rows."""
        side = 2 ** (len(self.vae.config.block_out_channels) - 1)
        shape = (count, self.vae.config.latent_channels, canvas.height // side, canvas.width // side)
        return share.noise(shape, generator).to(self.vae.device)

    @torch.no_grad()
    def told(self, asked: Sequence[Asked], guidance: float) -> Told:
        """What the denoiser is told; sources are encoded to the posterior's mode, in full precision."""
        device, config = self.vae.device, self.vae.config
        reference = None
        if asked[0].source is not None:
            images = to_tensor([request.source for request in asked if request.source is not None]).to(device)
            with torch.autocast(device.type, enabled=False):
                mode = self.vae.encode(images.to(self.vae.dtype)).latent_dist.mode().float()
            reference = (mode - config.shift_factor) * config.scaling_factor
        context, pooled = self._words([request.text for request in asked])
        negative = Condition(*self._words([""]), None) if guidance > 1 else None
        return Told(Condition(context, pooled, reference), negative, guidance)

    def _words(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        first, second, third = (part.to(self.vae.device) for part in self.tokenize(texts))
        context, pooled = self.conditioner((first, second, third))
        return context, pooled

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Picture]:
        """Latents [B, C, h, w], shifted and scaled → pictures."""
        config = self.vae.config
        with torch.autocast(latents.device.type, enabled=False):
            plain = latents.to(self.vae.dtype) / config.scaling_factor + config.shift_factor
            return to_pictures(self.vae.decode(plain).sample)

    def draw(
        self, model: Any, asked: Sequence[Asked], start: Tensor, deployed: Deployed, at_once: int
    ) -> list[Picture]:
        """Pictures as they will be made in use, by a denoiser with its own arguments."""
        pictures: list[Picture] = []
        for begin in range(0, len(asked), at_once):
            part = asked[begin : begin + at_once]
            condition = self.told(part, deployed.guidance).of(torch.arange(len(part)))
            reference = None if condition.reference is None else condition.reference[: len(part)]
            latents = sample(
                model,
                self.scheduler,
                start[begin : begin + len(part)],
                condition.context,
                condition.pooled,
                reference,
                deployed.steps,
                deployed.guidance,
            )
            pictures += self.decode(latents)
        return pictures


@dataclass(frozen=True)
class Drawn:
    """An episode, and what to log of it."""

    episode: Episode
    metrics: dict[str, float]


class Director:
    """Draws episodes.

    Args:
        settings: the recipe's table.
        studio: the frozen parts.
        raters: of the pictures.
        algorithm: says who draws, and with what noise.
        at_once: pictures in one forward pass.
    """

    def __init__(self, settings: Reinforce, studio: Studio, raters: Raters, algorithm: Algorithm, at_once: int) -> None:
        self.settings, self.studio, self.raters = settings, studio, raters
        self.algorithm, self.at_once = algorithm, at_once

    def episode(self, model: nn.Module, asked: Sequence[Asked], canvas: Canvas, seed: int, share: Share) -> Drawn:
        """Draw, rate and compare the groups of these requests; batches are rated while the next ones are drawn.

        Args:
            model: the variants.
            asked: one task's requests, this process's share of them.
            canvas: of the pictures.
            seed: the same in all processes.
            share: which of them this is.

        Raises:
            SuspendedWorkError: the reward is dead, here or in another process.
            UserError: the reward says what none may say.
        """
        settings, clock = self.settings, _Clock()
        told = self.studio.told(asked, settings.guidance)
        sigmas = self.studio.sigmas(settings.steps)
        count = len(asked) * settings.group_size
        common = torch.Generator().manual_seed(seed)
        steps = noisy_steps(self.algorithm.noise, settings.steps, common)
        start = self.studio.start(count, canvas, common, share)
        generator = torch.Generator().manual_seed(seed + 1 + share.rank)
        pictures = torch.arange(count)
        clock.lap("seconds_preparing")
        parts: list[Trajectory] = []
        pending: list[Pending] = []
        for rows in torch.split(pictures, self.at_once):
            prompts = rows // settings.group_size
            with sdpa_kernel(attention_backends(start.device)):  # the same kernels as in training
                flow = partial(velocity, model, self.algorithm.actor, told, prompts)
                parts.append(roll_out(flow, start[rows], sigmas, self.algorithm.noise, steps, generator))
            clock.lap("seconds_sampling")
            made = self.studio.decode(parts[-1].clean)
            clock.lap("seconds_decoding")
            pending.append(self.raters.submit([asked[int(prompt)] for prompt in prompts], made))
        ratings = _collected(pending, start.device)
        clock.lap("seconds_rating")
        values = torch.tensor([rating.value for rating in ratings], device=start.device)
        gained = advantages(values, settings.group_size, settings.clip_advantage)
        episode = Episode(told, _joined(parts, steps), sigmas, gained)
        equal = equal_groups(values, settings.group_size)
        report = _report(ratings, asked[0].source is not None)
        return Drawn(episode, {**report, "equal_groups": equal, **clock.laps})

    def rated(self, asked: Sequence[Asked], pictures: Sequence[Picture]) -> list[Rating]:
        """Finished pictures' ratings, in batches, with the same patience as an episode's.

        Raises:
            SuspendedWorkError, UserError: as for `episode`.
        """
        starts = range(0, len(asked), self.at_once)
        pending = [self.raters.submit(asked[i : i + self.at_once], pictures[i : i + self.at_once]) for i in starts]
        return [rating for batch in pending for rating in batch.result()]


def _collected(pending: Sequence[Pending], device: torch.device) -> list[Rating]:
    """All ratings; where one process cannot have them, all stop."""
    problem: UserError | None = None
    ratings: list[Rating] = []
    try:
        for batch in pending:
            ratings += batch.result()
    except UserError as error:
        problem = error
    failed = int(gather(torch.tensor([int(problem is not None)], device=device)).sum())
    if problem is not None:
        raise problem
    if failed:
        raise SuspendedWorkError("a reward failed in another process", "see its message")
    return ratings


def _joined(parts: Sequence[Trajectory], steps: tuple[int, ...]) -> Trajectory:
    return Trajectory(
        torch.cat([part.clean for part in parts]),
        torch.cat([part.before for part in parts], dim=1),
        torch.cat([part.after for part in parts], dim=1),
        torch.cat([part.log_probs for part in parts], dim=1),
        steps,
    )


def _report(ratings: Sequence[Rating], edit: bool) -> dict[str, float]:
    """The mean reward and its parts' means where they occur, under the task's name: the two alternate in a run."""
    values: dict[str, list[float]] = defaultdict(list)
    for rating in ratings:
        for name, value in {"reward": rating.value, **rating.parts}.items():
            values[name].append(value)
    task = "edit" if edit else "generate"
    return {f"{task}_{name}": sum(each) / len(each) for name, each in values.items()}


class _Clock:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = defaultdict(float)
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] += now - self._last
        self._last = now
