"""Regression on targets where the student's own steps lead, on velocities that can be followed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unipic2_edge.training.distillation.targets import target_loss

GENERATOR = torch.Generator().manual_seed(0)
NOISE, CLEAN = (torch.randn(2, 3, 4, 4, generator=GENERATOR) for _ in range(2))
LEVELS = [1.0, 0.6, 0.2]


def _to(clean: Tensor, latents: Tensor, sigmas: Tensor) -> Tensor:
    return (latents - clean) / sigmas[:, None, None, None]


def test_a_student_that_heads_for_the_target_has_no_loss_at_any_point() -> None:
    for reached in (1, 2, 3):
        loss = target_loss(lambda latents, sigmas: _to(CLEAN, latents, sigmas), NOISE, LEVELS[:reached], CLEAN)
        assert float(loss) == pytest.approx(0, abs=1e-5)


def test_one_that_heads_elsewhere_is_told_the_target_where_it_got_to() -> None:
    seen: list[Tensor] = []
    elsewhere = CLEAN + 1

    def student(latents: Tensor, sigmas: Tensor) -> Tensor:
        seen.append(latents)
        return _to(elsewhere, latents, sigmas).requires_grad_()

    loss = target_loss(student, NOISE, LEVELS, CLEAN)
    assert torch.allclose(seen[-1], 0.2 * NOISE + 0.8 * elsewhere, atol=1e-5)
    assert not any(latents.requires_grad for latents in seen)
    assert loss.requires_grad
    assert float(loss.detach()) == pytest.approx(((1 + 0.2**2) ** 0.5 - 0.2) / 0.2, rel=1e-4)


def test_large_errors_count_linearly_and_small_ones_by_their_squares() -> None:
    def loss(error: float) -> float:
        return float(target_loss(lambda x, s: _to(CLEAN + error, x, s), NOISE, [1.0], CLEAN))

    assert loss(8.0) / loss(4.0) == pytest.approx(2, rel=0.05)
    assert loss(0.02) / loss(0.01) == pytest.approx(4, rel=0.05)


def test_a_denoiser_as_the_target_keeps_the_student_where_it_is() -> None:
    def held(latents: Tensor, sigmas: Tensor) -> Tensor:
        return latents * sigmas[:, None, None, None]

    assert float(target_loss(held, NOISE, LEVELS, held)) == pytest.approx(0, abs=1e-6)
    assert float(target_loss(lambda x, s: held(x, s) + 1, NOISE, LEVELS, held)) > 0.1
