"""Flow matching: the times that training draws, and the Euler sampler with classifier-free guidance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .loop.share import WHOLE, Share
from .recipe import Flow


@dataclass(frozen=True)
class Condition:
    """What the denoiser is told: context [B, L, J], pooled [B, P], reference latents [B, C, h, w] or none."""

    context: Tensor
    pooled: Tensor
    reference: Tensor | None


def sigmas_for_training(flow: Flow, count: int, generator: torch.Generator) -> Tensor:
    """`count` noise levels s in (0, 1), [count]: stratified u, logit-normal or uniform, through the shift.

    Logit-normal: u = sigmoid(mean + std·z) (SD3, arXiv 2403.03206, §3.1); shift: s = k·u / (1 + (k − 1)·u)
    (§5.3.2). Stratified draws (one from each of `count` equal parts) have the same distribution and less variance.
    """
    order = torch.randperm(count, generator=generator)
    u = (order + torch.rand(count, generator=generator)) / count
    u = u.clamp(1e-4, 1 - 1e-4)
    if flow.timesteps == "logit-normal":
        normal = torch.special.ndtri(u)
        u = torch.sigmoid(flow.logit_mean + flow.logit_std * normal)
    return flow.shift * u / (1 + (flow.shift - 1) * u)


def sample(
    model: nn.Module,
    scheduler: FlowMatchEulerDiscreteScheduler,
    noise: Tensor,
    context: Tensor,
    pooled: Tensor,
    reference: Tensor | None,
    steps: int,
    guidance: float,
) -> Tensor:
    """Integrate from noise [B, C, h, w] to clean latents.

    With guidance over 1, `context` [2B, L, J] and `pooled` [2B, P] hold the negative rows first, and
    v = v_neg + guidance·(v − v_neg) (classifier-free guidance, arXiv 2207.12598); else they have B rows.
    """
    scheduler.set_timesteps(steps, device=noise.device)
    copies = 2 if guidance > 1 else 1
    latents = noise
    references = None if reference is None else torch.cat([reference] * copies)
    for timestep in scheduler.timesteps:
        times = timestep.expand(copies * len(noise))
        velocity = model(torch.cat([latents] * copies), context, pooled, times, references, return_dict=False)[0]
        if guidance > 1:
            negative, positive = velocity.chunk(2)
            velocity = negative + guidance * (positive - negative)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    return latents


def velocity_loss(
    model: nn.Module,
    flow: Flow,
    latents: Tensor,
    condition: Condition,
    generator: torch.Generator,
    share: Share = WHOLE,
) -> Tensor:
    """‖v(x_s, s) − (ε − x0)‖², x_s = (1 − s)·x0 + s·ε, averaged (flow matching, arXiv 2210.02747).

    Args:
        model: the denoiser.
        flow: how s is drawn.
        latents: clean, [B, C, h, w].
        condition: context, pooled and reference of each.
        generator: on the CPU, so that draws are the same on every device.
        share: which rows of the global batch these are; all processes have the same generator.
    """
    device = latents.device
    rows = share.rows(len(latents))
    sigmas = sigmas_for_training(flow, share.total(len(latents)), generator)[rows].to(device)
    noise = share.noise(latents.shape, generator).to(device)
    mix = sigmas[:, None, None, None]
    noisy = (1 - mix) * latents + mix * noise
    with sdpa_kernel(attention_backends(device)):
        velocity = model(
            noisy, condition.context, condition.pooled, sigmas * 1000, condition.reference, return_dict=False
        )[0]
    loss: Tensor = (velocity.float() - (noise - latents)).square().mean()
    return loss


def attention_backends(device: torch.device) -> list[SDPBackend]:
    """For training: on CPUs the flash kernel's backward takes a third of a step at these sizes, so matmuls there."""
    fused = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    return [SDPBackend.MATH] if device.type == "cpu" else [*fused, SDPBackend.MATH]
