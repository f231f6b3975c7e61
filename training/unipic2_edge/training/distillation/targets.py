"""Regression on the pictures that edits should end in, at a point the student's own steps lead to.

An instruction and its source say what the target is; nothing is left to chance but the noise the student starts from.
So the student can be told at any step of its own rollout where it should have been going. Flow matching also regresses
on targets, but from noised targets, which give the answer away from the middle levels on: a student that took a wrong
turn in its first step then follows its own mistake. Training on the states that one's own policy reaches, with the
right answer for each, is DAgger (Ross et al., arXiv 1011.0686).

What a prompt asks for leaves much to chance, so generation has no such targets: it is held where the teacher has it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .velocities import Velocity, integrate

_SOFTNESS = 0.2  # of a latent's standard deviation, about: smaller errors count by their squares, larger ones linearly


def target_loss(student: Velocity, noise: Tensor, sigmas: Sequence[float], target: Tensor | Velocity) -> Tensor:
    """ρ(x̂ − x) / s with x̂ = x_s − s·v(x_s, s), after the student's own steps through `sigmas`, s the last of them.

    ρ is the pseudo-Huber distance sqrt(e² + c²) − c, averaged: a student that wavers between two pictures gains
    nothing by drawing their mean, as squares would have it. The steps before s are without gradients.

    Args:
        student: with gradients.
        noise: [B, C, h, w].
        sigmas: of the deployed levels the first ones, from 1 to s > 0.
        target: the clean latents x [B, C, h, w], or a denoiser, whose own x̂ is to be kept.
    """
    latents = integrate(student, noise, sigmas)
    levels = torch.full((len(latents),), sigmas[-1], device=latents.device)
    velocity = student(latents, levels)
    if isinstance(target, Tensor):
        wanted = (latents - target) / sigmas[-1]
    else:
        with torch.no_grad():
            wanted = target(latents, levels)
    softness = _SOFTNESS / sigmas[-1]
    return ((velocity - wanted).square() + softness**2).sqrt().mean() - softness
