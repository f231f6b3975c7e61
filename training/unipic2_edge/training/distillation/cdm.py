"""Continuous-time distribution matching (CDM, arXiv 2605.06376; code: byliutao/cdm): no pictures, no adversary.

The student's clean latents are pulled to where the teacher, and away from where a *fake* that follows the student's
own distribution, would take them (distribution matching, DMD, arXiv 2311.18828), and along guidance's direction. Its
levels are drawn anew for every rollout, and it is also matched beside its trajectory. What the sources leave open and
is chosen here: levels are uniform, each row has its own, and the point beside the trajectory lies between the
anchor's level and 0.

x0 = x − s·v is the clean latent that a velocity v at (x, s) means; x_t = (1 − t)·x0 + t·ε.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .velocities import Pair, Velocity, integrate, wide

_MATCHED = (0.02, 0.98)  # levels at which distributions are compared
_LEAST = 0.1  # of the normaliser


@dataclass(frozen=True)
class Draws:
    """Random numbers of one micro-batch, drawn on the CPU, so that they are the same on every device."""

    generator: torch.Generator
    device: torch.device

    def uniform(self, count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """[count], within low…high."""
        return (low + (high - low) * torch.rand(count, generator=self.generator)).to(self.device)

    def noise(self, like: Tensor) -> Tensor:
        """Standard normal, of the shape of `like`."""
        return torch.randn(like.shape, generator=self.generator).to(self.device)

    def below(self, count: int) -> int:
        """One of 0 … count − 1."""
        return int(torch.randint(count, (), generator=self.generator))


@dataclass(frozen=True)
class Voices:
    """Who says velocities: student, teacher and fake with the words, and the teacher without and with them."""

    student: Velocity
    teacher: Velocity
    pair: Pair
    fake: Velocity


@dataclass(frozen=True)
class Anchor:
    """A point of the student's rollout: latents [B, C, h, w] at sigmas [B], without gradients."""

    latents: Tensor
    sigmas: Tensor


def random_levels(steps: int, rows: int, draws: Draws) -> Tensor:
    """[steps, rows]: 1 first, then steps − 1 uniform levels, falling; a row has its own."""
    inner = torch.stack([draws.uniform(rows) for _ in range(steps - 1)]) if steps > 1 else draws.uniform(0).view(0, 1)
    first = torch.ones(1, rows, device=draws.device)
    return torch.cat([first, inner.expand(-1, rows).sort(dim=0, descending=True).values])


def draw_anchor(student: Velocity, noise: Tensor, most_steps: int, draws: Draws) -> Anchor:
    """A random point of a rollout of random length: 1 … `most_steps` levels."""
    sigmas = random_levels(1 + draws.below(most_steps), len(noise), draws)
    reached = draws.below(len(sigmas))
    return Anchor(integrate(student, noise, sigmas[: reached + 1]), sigmas[reached])


def clean(velocity: Velocity, latents: Tensor, sigmas: Tensor) -> Tensor:
    """x0 = x − s·v(x, s)."""
    return latents - wide(sigmas) * velocity(latents, sigmas)


def noised(latents: Tensor, sigmas: Tensor, noise: Tensor) -> Tensor:
    """x_s = (1 − s)·x0 + s·ε."""
    return (1 - wide(sigmas)) * latents + wide(sigmas) * noise


def fake_loss(fake: Velocity, student: Velocity, anchor: Anchor, draws: Draws) -> Tensor:
    """Flow matching on the student's clean latents: the fake follows the student's distribution."""
    with torch.no_grad():
        made = clean(student, anchor.latents, anchor.sigmas)
    sigmas, noise = draws.uniform(len(made), *_MATCHED), draws.noise(made)
    return (fake(noised(made, sigmas, noise), sigmas) - (noise - made)).square().mean()


def student_loss(voices: Voices, anchor: Anchor, augmentation: float, draws: Draws) -> tuple[Tensor, dict[str, float]]:
    """CA + DM + CDM, three equal losses in the space of clean latents.

    Args:
        voices: the student with gradients.
        anchor: of the student's rollout.
        augmentation: guidance − 1, CA's factor.
        draws: levels and noises.

    Returns:
        The sum, and each by name.
    """
    velocity = voices.student(anchor.latents, anchor.sigmas)
    estimate = anchor.latents - wide(anchor.sigmas) * velocity
    aside = anchor.sigmas * draws.uniform(len(estimate))
    beside = (anchor.latents + wide(aside - anchor.sigmas) * velocity).detach()
    extrapolated = clean(voices.student, beside, aside)
    levels = anchor.sigmas * draws.uniform(len(estimate))
    losses = {
        "ca": pull(estimate, *augmented(voices, augmentation, estimate, levels, draws)),
        "dm": pull(estimate, *matched(voices, estimate, draws)),
        "cdm": pull(extrapolated, *matched(voices, extrapolated, draws)),
    }
    total = losses["ca"] + losses["dm"] + losses["cdm"]
    return total, {name: float(loss.detach()) for name, loss in losses.items()}


@torch.no_grad()
def augmented(
    voices: Voices, augmentation: float, estimate: Tensor, sigmas: Tensor, draws: Draws
) -> tuple[Tensor, Tensor]:
    """CA's direction, augmentation·(x0(words) − x0(no words)), at levels `sigmas` [B]; and the teacher's x0."""
    latents = noised(estimate, sigmas, draws.noise(estimate))
    negative, positive = voices.pair(latents, sigmas)
    direction = augmentation * wide(sigmas) * (negative - positive)
    return direction, latents - wide(sigmas) * positive


@torch.no_grad()
def matched(voices: Voices, estimate: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """DM's direction, x0_teacher(words) − x0_fake(words), at levels of .02 … .98; and the teacher's x0."""
    sigmas = draws.uniform(len(estimate), *_MATCHED)
    latents = noised(estimate, sigmas, draws.noise(estimate))
    real = clean(voices.teacher, latents, sigmas)
    return real - clean(voices.fake, latents, sigmas), real


def pull(estimate: Tensor, direction: Tensor, real: Tensor) -> Tensor:
    """‖x̂ − stop(x̂ + direction / max(.1, mean|x0_teacher − x̂|))‖²: its gradient is minus the direction's."""
    with torch.no_grad():
        spread = (real - estimate).abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=_LEAST)
        target = estimate + direction / spread
    return (estimate - target).square().mean()
