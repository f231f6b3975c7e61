"""Regression on the teacher's guided steps: the simple way to fewer steps and no guidance.

One step of the student learns to land where several guided Euler steps of the teacher do: guidance distillation
(Meng et al., arXiv 2210.03142, stage one: the student says v_neg + g·(v − v_neg) in one pass) and progressive
distillation (Salimans & Ho, arXiv 2202.00512: one step for many) in one. With one sub-step it is the first alone.
Theirs noise pictures to get latents; here they come from rollouts on the deployed levels, the teacher's for some rows
and the student's own for the others, so that the student is right about what it will meet, and no pictures are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .grid import between
from .velocities import Velocity, integrate


def trajectory_losses(
    student: Velocity,
    teacher: Velocity,
    noise: Tensor,
    sigmas: Sequence[float],
    substeps: int,
    shift: float,
    led: Tensor,
) -> Iterator[Tensor]:
    """(s_k − s_{k+1})·‖v_student(x_k, s_k) − (x_k − x'_k)/(s_k − s_{k+1})‖² for each step k in turn.

    x'_k is where the teacher's sub-steps from x_k end; targets and latents are without gradients. The weights, one
    together, make the sum the integral over s: without them the first of the short steps at high noise, where
    guidance is strongest, outweighs all others.

    Args:
        student: with gradients.
        teacher: already guided.
        noise: x_0 [B, C, h, w].
        sigmas: the deployed levels, from 1 to 0.
        substeps: Euler steps of the teacher within one of the student's.
        shift: of the levels in between.
        led: [B], whether a row goes on from the teacher's point rather than from the student's.
    """
    latents = noise
    for sigma, following in pairwise(sigmas):
        reached = integrate(teacher, latents, between(sigma, following, substeps, shift))
        velocity = student(latents, torch.full((len(latents),), sigma, device=latents.device))
        target = (latents - reached) / (sigma - following)
        yield (sigma - following) * (velocity - target).square().mean()
        own = latents + (following - sigma) * velocity.detach()
        latents = torch.where(led[:, None, None, None], reached, own)
