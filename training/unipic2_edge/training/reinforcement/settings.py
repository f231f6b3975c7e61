"""The recipe's table `[reinforce]`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ..rewards.settings import Geneval, Judge
from ..section import Adapter, AtLeastOne, Count, Fraction, NotNegative, Positive, Section, Whole


class Noise(Section, frozen=True):
    """Noise in the sampler: the flow's SDE or Coefficients-Preserving Sampling; `rollout.py` has the formulas.

    With `window` only that many steps in a row have noise, beginning anywhere within `window_range`.
    """

    kind: Literal["sde", "cps"] = "cps"
    level: Fraction = 0.8
    window: Whole = 0
    window_range: tuple[int, int] = (0, 5)


class Grpo(Section, frozen=True):
    """Flow-GRPO: the clip of the probability ratio, and the weight of the KL divergence from the reference."""

    clip: Positive = 1e-4
    kl: NotNegative = 0.04


class Nft(Section, frozen=True):
    """DiffusionNFT: `mix` is the paper's β, the share of the new velocity in the positive one."""

    mix: Positive = 1.0
    kl: NotNegative = 1e-4
    times: Count = 4  # noise levels of the rollout's grid at which each picture is learned from
    sigmas: tuple[Fraction, Fraction] = (0.0, 1.0)  # only levels within are learned from
    decay_rate: NotNegative = 1e-3  # old ← η·old + (1 − η)·new after an episode, η = min(rate · episodes, most)
    decay_most: Fraction = 0.5


class Deployed(Section, frozen=True):
    """How the result will be run: the grid of every look and the checkpoint's defaults. Guidance 1 is none."""

    steps: Count = 28
    guidance: AtLeastOne = 3.5


class Reinforce(Section, frozen=True):
    """Online reinforcement. An episode is one task's `groups` prompts with `group_size` pictures each.

    Pictures are drawn `batch_size` at a time; an episode is learned from in `updates` steps of the optimiser, each of
    `gradient_accumulation` micro-batches.
    """

    algorithm: Literal["flow-grpo", "diffusion-nft"] = "diffusion-nft"
    edit_share: Fraction = 1.0  # of the episodes; the others generate
    prompts: str = "shapes"  # or a JSONL file: text, image (for edits), and whatever the rewards want; or GenEval's
    evaluation: str | None = None  # such a file, for the looks at a run with prompts from a file
    groups: Count = 12  # of each process
    group_size: Annotated[int, Meta(ge=2)] = 16
    steps: Annotated[int, Meta(ge=2)] = 10
    guidance: AtLeastOne = 1.0
    noise: Noise = Noise()
    updates: Count = 1
    weights: Literal["lora", "full"] = "lora"
    lora: Adapter = Adapter()
    rewards: dict[str, float] = msgspec.field(default_factory=lambda: {"shapes": 1.0})
    geneval: Geneval = Geneval()
    judge: Judge = Judge()
    reward_workers: Count = 1
    reward_timeout: Positive = 60.0
    reward_retries: Whole = 2
    clip_advantage: Positive = 5.0
    grpo: Grpo = Grpo()
    nft: Nft = Nft()
    deployed: Deployed = Deployed()
    evaluated: Count = 72  # pictures of each task at every look


def problems_of(settings: Reinforce) -> dict[str, bool]:
    """What would be wrong with the table, and whether it is."""
    noise = settings.noise
    room = 0 <= noise.window_range[0] <= noise.window_range[1] - noise.window
    return {
        "reinforce.noise.level must be above 0 for flow-grpo": settings.algorithm == "flow-grpo" and noise.level == 0,
        "reinforce.nft.sigmas must be a range, the lower end first": settings.nft.sigmas[0] >= settings.nft.sigmas[1],
        "reinforce.noise.window_range must have room for the window": noise.window > 0 and not room,
    }
