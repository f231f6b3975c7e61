"""Regression on guided steps, on velocities that can be followed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.distillation.grid import between, deployed_levels, student_scheduler
from unipic2_edge.training.distillation.trajectory import trajectory_losses
from unipic2_edge.training.distillation.velocities import Asked, guided, integrate
from unipic2_edge.training.flow import Condition, sample
from unipic2_edge.training.variants import Variants

NOISE = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
LEVELS = [1.0, 0.6, 0.2, 0.0]


def _teacher(latents: Tensor, sigmas: Tensor) -> Tensor:
    return latents * sigmas[:, None, None, None]


def _losses(student: object, substeps: int, led: list[bool]) -> list[Tensor]:
    return list(trajectory_losses(student, _teacher, NOISE, LEVELS, substeps, 3.0, torch.tensor(led)))  # type: ignore[arg-type]


def test_with_one_substep_the_target_is_the_guided_velocity() -> None:
    assert [float(loss) for loss in _losses(_teacher, 1, [True, False])] == pytest.approx([0, 0, 0], abs=1e-10)
    assert float(sum(_losses(_teacher, 4, [True, False]))) > 1e-4


def test_a_student_that_lands_where_the_substeps_do_has_no_loss() -> None:
    def student(latents: Tensor, sigmas: Tensor) -> Tensor:
        sigma = float(sigmas[0])
        following = LEVELS[[round(level, 4) for level in LEVELS].index(round(sigma, 4)) + 1]
        reached = integrate(_teacher, latents, between(sigma, following, 4, 3.0))
        return (latents - reached) / (sigma - following)

    assert float(sum(_losses(student, 4, [False, False]))) == pytest.approx(0, abs=1e-10)


def test_every_step_weighs_as_much_as_it_is_long() -> None:
    losses = _losses(lambda latents, sigmas: _teacher(latents, sigmas) + 1, 1, [True, True])
    assert [float(loss) for loss in losses] == pytest.approx([0.4, 0.4, 0.2], rel=1e-4)


def test_led_rows_see_the_teachers_latents_and_the_others_their_own() -> None:
    seen: list[Tensor] = []

    def student(latents: Tensor, sigmas: Tensor) -> Tensor:
        seen.append(latents)
        return torch.ones_like(latents, requires_grad=True)

    losses = _losses(student, 3, [True, False])
    assert len(losses) == 3
    led = integrate(_teacher, NOISE, between(1.0, 0.6, 3, 3.0))
    assert torch.equal(seen[1][0], led[0])
    assert torch.allclose(seen[1][1], NOISE[1] - 0.4)
    assert not any(latents.requires_grad for latents in seen)
    assert all(loss.requires_grad for loss in losses)


def test_a_rollout_is_what_the_scheduler_and_the_sampler_do(tiny_checkpoint: Checkpoint) -> None:
    variants = Variants(tiny_checkpoint.load_transformer(), ["student"], None, ["student"])
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(2, 8, 8, 8, generator=generator)
    condition, negative = (
        Condition(torch.randn(2, 5, 192, generator=generator), torch.randn(2, 192, generator=generator), noise * 0.5)
        for _ in range(2)
    )
    asked = Asked(variants, condition, negative)
    scheduler = student_scheduler(4, 3.0)
    levels = deployed_levels(scheduler, 4)
    plain = variants.merged("student")
    with torch.no_grad():
        expected = sample(plain, scheduler, noise, condition.context, condition.pooled, condition.reference, 4, 1.0)
        both = (torch.cat([negative.context, condition.context]), torch.cat([negative.pooled, condition.pooled]))
        with_guidance = sample(plain, scheduler, noise, *both, condition.reference, 4, 3.5)
    assert torch.allclose(integrate(asked.velocity("student"), noise, levels), expected, atol=1e-4)
    assert torch.allclose(integrate(guided(asked.pair(None), 3.5), noise, levels), with_guidance, atol=1e-3)
