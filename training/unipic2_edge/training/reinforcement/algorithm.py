"""What an algorithm of reinforcement supplies, and what all share: episodes, advantages, the model's velocity."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather
from torch import Tensor, nn

from ..flow import Condition
from ..variants import Variants
from .rollout import Trajectory
from .settings import Noise

POLICY = "policy"  # the variant that is trained


@dataclass(frozen=True)
class Told:
    """What the denoiser was told in an episode: a condition a prompt, and the empty prompt's where there is guidance.

    `prompts` has P rows, `negative` one; `guidance` 1 is none.
    """

    prompts: Condition
    negative: Condition | None
    guidance: float

    def of(self, rows: Tensor) -> Condition:
        """The condition of these prompts, [M]; with guidance [2M] rows, the negative ones first."""
        positive = self.prompts
        reference = None if positive.reference is None else positive.reference[rows]
        context, pooled = positive.context[rows], positive.pooled[rows]
        if self.negative is None:
            return Condition(context, pooled, reference)
        empty, blank = self.negative.context, self.negative.pooled
        return Condition(
            torch.cat([empty.expand_as(context), context]),
            torch.cat([blank.expand_as(pooled), pooled]),
            None if reference is None else torch.cat([reference] * 2),
        )


@dataclass(frozen=True)
class Episode:
    """One task's prompts, P of them, each with a group of pictures that were drawn, rated and compared.

    Picture i of the P·G belongs to prompt i // G; `advantages` [P·G]; `sigmas` is the grid, one more than its steps.
    """

    told: Told
    trajectory: Trajectory
    sigmas: tuple[float, ...]
    advantages: Tensor

    @property
    def group(self) -> int:
        """G."""
        return len(self.advantages) // len(self.told.prompts.context)


@dataclass(frozen=True)
class Items:
    """What a micro-batch learns from: pictures [M] of an episode, each at a noise level of its grid, by place [M]."""

    pictures: Tensor
    places: Tensor


class Algorithm(ABC):
    """One way to learn from episodes."""

    variants: Sequence[str] = (POLICY,)
    actor: str = POLICY  # the variant that draws the pictures
    noise: Noise

    @abstractmethod
    def items(self, episode: Episode, generator: torch.Generator) -> Items:
        """All that an episode is learned from, in any order."""

    @abstractmethod
    def loss(
        self, model: nn.Module, episode: Episode, items: Items, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of some of them, and what to log."""

    def after_episode(self, variants: Variants, episodes: int) -> None:  # noqa: B027 - most have nothing to do
        """What follows the last update from an episode; `episodes` were before it."""


def velocity(
    model: nn.Module, variant: str | None, told: Told, prompts: Tensor, latents: Tensor, sigmas: Tensor
) -> Tensor:
    """The velocity [M, C, h, w] in float32 of a variant, with the episode's guidance, for prompts [M] at sigmas [M]."""
    condition = told.of(prompts)
    copies = 1 if told.negative is None else 2
    out: Tensor = model(
        variant,
        torch.cat([latents] * copies),
        condition.context,
        condition.pooled,
        torch.cat([sigmas * 1000] * copies),
        condition.reference,
        return_dict=False,
    )[0]
    out = out.float()
    if told.negative is None:
        return out
    negative, positive = out.chunk(2)
    return negative + told.guidance * (positive - negative)


def advantages(values: Tensor, group: int, clip: float) -> Tensor:
    """(r − mean of the group) / std of all pictures of all processes, clipped (Flow-GRPO, arXiv 2505.05470).

    The deviation is that of everything drawn, as in flow_grpo's `global_std`: a group's own would be noise where its
    pictures are almost equally good.

    Args:
        values: rewards [P·G], group after group.
        group: G.
        clip: the largest absolute advantage.
    """
    means = values.view(-1, group).mean(1).repeat_interleave(group)
    everything: Any = gather(values)
    spread: Tensor = everything.std(correction=0) + 1e-4
    return ((values - means) / spread).clamp(-clip, clip)


def equal_groups(values: Tensor, group: int) -> float:
    """The share of groups whose pictures all have one reward: nothing is learned from them."""
    groups = values.view(-1, group)
    return float((groups.amax(1) - groups.amin(1) < 1e-6).float().mean())
