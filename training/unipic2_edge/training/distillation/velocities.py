"""A denoiser asked for velocities: one variant under one condition is a function of latents and noise levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel

from ..flow import Condition, attention_backends

#: x [B, C, h, w] at sigma [B] → velocity [B, C, h, w], float32
Velocity = Callable[[Tensor, Tensor], Tensor]
#: the same without and with the words, in one batch: (negative, positive)
Pair = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Asked:
    """Variants of a denoiser, told the same thing.

    Attributes:
        model: `Variants`, perhaps wrapped.
        condition: of B rows.
        negative: the empty prompt's condition, of B rows; the reference picture is in both.
    """

    model: nn.Module
    condition: Condition
    negative: Condition

    def velocity(self, variant: str | None) -> Velocity:
        """The velocity with the words."""

        def ask(latents: Tensor, sigmas: Tensor) -> Tensor:
            return _run(self.model, variant, self.condition, latents, sigmas)

        return ask

    def pair(self, variant: str | None) -> Pair:
        """The velocities without and with the words, in one batch of 2B."""
        both = Condition(
            *(_joined(*parts) for parts in zip(_fields(self.negative), _fields(self.condition), strict=True))
        )

        def ask(latents: Tensor, sigmas: Tensor) -> tuple[Tensor, Tensor]:
            velocity = _run(self.model, variant, both, torch.cat([latents] * 2), torch.cat([sigmas] * 2))
            negative, positive = velocity.chunk(2)
            return negative, positive

        return ask


def guided(pair: Pair, guidance: float) -> Velocity:
    """v = v_neg + guidance·(v − v_neg) (classifier-free guidance, arXiv 2207.12598)."""

    def ask(latents: Tensor, sigmas: Tensor) -> Tensor:
        negative, positive = pair(latents, sigmas)
        return negative + guidance * (positive - negative)

    return ask


@torch.no_grad()
def integrate(velocity: Velocity, latents: Tensor, sigmas: Sequence[float] | Tensor) -> Tensor:
    """Euler steps through `sigmas` (floats, or a level for each row: [K, B]), without gradients."""
    for sigma, following in pairwise(sigmas):
        now, then = (_rows(level, latents) for level in (sigma, following))
        latents = latents + wide(then - now) * velocity(latents, now)
    return latents


def wide(sigmas: Tensor) -> Tensor:
    """[B] → [B, 1, 1, 1]."""
    return sigmas[:, None, None, None]


def _rows(level: float | Tensor, latents: Tensor) -> Tensor:
    return torch.as_tensor(level, dtype=torch.float32, device=latents.device).expand(len(latents))


def _run(model: Any, variant: str | None, condition: Condition, latents: Tensor, sigmas: Tensor) -> Tensor:
    arguments = (latents, condition.context, condition.pooled, sigmas * 1000, condition.reference)
    with sdpa_kernel(attention_backends(latents.device)) if torch.is_grad_enabled() else nullcontext():
        velocity: Tensor = model(variant, *arguments, return_dict=False)[0]
    return velocity.float()


def _fields(condition: Condition) -> tuple[Tensor, Tensor, Tensor | None]:
    return condition.context, condition.pooled, condition.reference


def _joined(first: Any, second: Any) -> Any:
    return None if first is None else torch.cat([first, second])
