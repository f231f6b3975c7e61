"""Sampling for reinforcement: Euler steps of the flow, some of them with noise whose probability is known.

Two ways to add noise that keep the marginal distributions: the flow's SDE (Flow-GRPO, arXiv 2505.05470), and
Coefficients-Preserving Sampling (arXiv 2509.05952), whose pictures stay free of noise. Both are Euler's step at
level 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .settings import Noise

Velocity = Callable[[Tensor, Tensor], Tensor]  # latents [B, C, h, w] and sigmas [B] → velocity, float32


@dataclass(frozen=True)
class Move:
    """Where a step lands: N(mean [B, C, h, w], std² [B, 1, 1, 1]); a std of 0 is no chance at all."""

    mean: Tensor
    std: Tensor

    def log_prob(self, latents: Tensor) -> Tensor:
        """The normal distribution's log-density of the latents it led to, averaged over their dimensions, [B]."""
        away = (latents - self.mean) / self.std
        return (-0.5 * away.square() - self.std.log() - 0.5 * math.log(2 * math.pi)).mean(dim=(1, 2, 3))


def move(noise: Noise, latents: Tensor, velocity: Tensor, sigma: Tensor, following: Tensor, largest: float) -> Move:
    """One step from noise level `sigma` to `following`, each [B]; in float32, or in float64 if the latents are.

    SDE: std = a·√(s/(1−s)), mean = x·(1 + std²/(2s)·dt) + v·(1 + std²(1−s)/(2s))·dt with dt = s' − s, and the step's
    deviation is std·√−dt. At s = 1, where std has a pole, its 1 − s is that of the level after (`largest` < 1).
    CPS: std = s'·sin(aπ/2), x0 = x − s·v, x1 = x + (1 − s)·v, mean = x0·(1 − s') + x1·√(s'² − std²).
    """
    x, v = (latents.float(), velocity.float()) if latents.dtype != torch.float64 else (latents, velocity.double())
    s, after = (level.to(x.dtype)[:, None, None, None] for level in (sigma, following))
    if noise.kind == "cps":
        std = after * math.sin(noise.level * math.pi / 2)
        clean, pure = x - s * v, x + (1 - s) * v
        return Move(clean * (1 - after) + pure * (after.square() - std.square()).clamp(min=0).sqrt(), std)
    dt = after - s
    std = noise.level * (s / (1 - torch.where(s >= 1, torch.full_like(s, largest), s))).sqrt()
    drift = std.square() / (2 * s)
    return Move(x * (1 + drift * dt) + v * (1 + drift * (1 - s)) * dt, std * (-dt).sqrt())


@dataclass(frozen=True)
class Trajectory:
    """What was sampled: the clean latents [B, C, h, w], and of the K noisy steps where each began and ended.

    `before` and `after` are [K, B, C, h, w], `log_probs` [K, B], `steps` their K places on the grid.
    """

    clean: Tensor
    before: Tensor
    after: Tensor
    log_probs: Tensor
    steps: tuple[int, ...]


def noisy_steps(noise: Noise, count: int, generator: torch.Generator) -> tuple[int, ...]:
    """Which of `count` steps have noise: never the last; with a window, that many in a row among its range."""
    if noise.level == 0:
        return ()
    if noise.window == 0:
        return tuple(range(count - 1))
    first, end = noise.window_range[0], min(noise.window_range[1], count - 1)
    start = int(torch.randint(first, max(first, end - noise.window) + 1, (), generator=generator))
    return tuple(range(start, min(start + noise.window, count - 1)))


@torch.no_grad()
def roll_out(
    velocity: Velocity,
    start: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    steps: Sequence[int],
    generator: torch.Generator,
) -> Trajectory:
    """Sample from pure noise to clean latents.

    Args:
        velocity: of the flow, with guidance or without.
        start: pure noise [B, C, h, w].
        sigmas: the grid, from 1 down to 0, one more than there are steps.
        noise: how the noisy steps move.
        steps: those with noise.
        generator: on the CPU, so that draws are the same on every device.
    """
    latents = start.float()
    before, after, log_probs = [], [], []
    for step, (sigma, following) in enumerate(pairwise(sigmas)):
        levels = [torch.full((len(latents),), level, device=latents.device) for level in (sigma, following)]
        v = velocity(latents, levels[0]).float()
        if step not in steps:
            latents = latents + v * (following - sigma)
            continue
        landing = move(noise, latents, v, levels[0], levels[1], sigmas[1])
        drawn = torch.randn(latents.shape, generator=generator).to(latents.device)
        before.append(latents)
        latents = landing.mean + landing.std * drawn
        after.append(latents)
        log_probs.append(landing.log_prob(latents))
    none = latents.new_zeros((0, *latents.shape))
    return Trajectory(
        latents,
        torch.stack(before) if before else none,
        torch.stack(after) if after else none,
        torch.stack(log_probs) if log_probs else latents.new_zeros((0, len(latents))),
        tuple(steps),
    )
