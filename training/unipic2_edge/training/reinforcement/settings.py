"""The recipe's table `[reinforce]`."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..section import Adapter, Section


class Noise(Section, frozen=True):
    """Noise in the sampler: the flow's SDE or Coefficients-Preserving Sampling; `rollout.py` has the formulas.

    With `window` only that many steps in a row have noise, beginning anywhere within `window_range`.
    """

    kind: Literal["sde", "cps"] = "cps"
    level: float = 0.8
    window: int = 0
    window_range: tuple[int, int] = (0, 5)


class Grpo(Section, frozen=True):
    """Flow-GRPO: the clip of the probability ratio, and the weight of the KL divergence from the reference."""

    clip: float = 1e-4
    kl: float = 0.04


class Nft(Section, frozen=True):
    """DiffusionNFT: `mix` is the paper's β, the share of the new velocity in the positive one."""

    mix: float = 1.0
    kl: float = 1e-4
    times: int = 4  # noise levels of the rollout's grid at which each picture is learned from
    decay_rate: float = 1e-3  # old ← η·old + (1 − η)·new after an episode, η = min(rate · episodes, most)
    decay_most: float = 0.5


class Deployed(Section, frozen=True):
    """How the result will be run: the grid of every look and the checkpoint's defaults. Guidance 1 is none."""

    steps: int = 28
    guidance: float = 3.5


class Reinforce(Section, frozen=True):
    """Online reinforcement. An episode is one task's `groups` prompts with `group_size` pictures each.

    Pictures are drawn `batch_size` at a time; an episode is learned from in `updates` steps of the optimiser, each of
    `gradient_accumulation` micro-batches.
    """

    algorithm: Literal["flow-grpo", "diffusion-nft"] = "diffusion-nft"
    edit_share: float = 1.0  # of the episodes; the others generate
    prompts: str = "shapes"  # or a JSONL file: text, image (for edits), and whatever the rewards want
    evaluation: str | None = None  # such a file, for the looks at a run with prompts from a file
    groups: int = 12  # of each process
    group_size: int = 16
    steps: int = 10
    guidance: float = 1.0
    noise: Noise = Noise()
    updates: int = 1
    weights: Literal["lora", "full"] = "lora"
    lora: Adapter = Adapter()
    rewards: dict[str, float] = msgspec.field(default_factory=lambda: {"shapes": 1.0})
    reward_workers: int = 1
    reward_timeout: float = 60.0
    reward_retries: int = 2
    clip_advantage: float = 5.0
    grpo: Grpo = Grpo()
    nft: Nft = Nft()
    deployed: Deployed = Deployed()
    evaluated: int = 72  # pictures of each task at every look


def problems_of(settings: Reinforce) -> dict[str, bool]:
    """What would be wrong with the table, and whether it is."""
    counts = (settings.groups, settings.steps - 1, settings.updates, settings.nft.times, settings.reward_workers)
    noise = settings.noise
    return {
        "reinforce.groups, updates, nft.times and reward_workers must be positive, steps at least 2": min(counts) < 1,
        "reinforce.group_size must be at least 2": settings.group_size < 2,
        "reinforce.edit_share must be within 0…1": not 0 <= settings.edit_share <= 1,
        "reinforce.noise.level must be within 0…1": not 0 <= noise.level <= 1,
        "reinforce.noise.level must be above 0 for flow-grpo": settings.algorithm == "flow-grpo" and noise.level == 0,
        "reinforce.noise.window_range must have room for the window": noise.window < 0
        or (noise.window > 0 and not 0 <= noise.window_range[0] <= noise.window_range[1] - noise.window),
        "reinforce.nft.mix must be positive": not settings.nft.mix > 0,
        "reinforce.clip_advantage must be positive": not settings.clip_advantage > 0,
        "reinforce.deployed.steps and evaluated must be positive": min(settings.deployed.steps, settings.evaluated) < 1,
        "reinforce.reward_timeout must be positive, reward_retries not negative": not settings.reward_timeout > 0
        or settings.reward_retries < 0,
    }
