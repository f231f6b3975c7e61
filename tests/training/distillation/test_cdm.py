"""CDM's losses on velocities that can be followed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unipic2_edge.training.distillation.cdm import (
    Anchor,
    Draws,
    Voices,
    augmented,
    clean,
    draw_anchor,
    fake_loss,
    matched,
    noised,
    pull,
    random_levels,
    student_loss,
)
from unipic2_edge.training.distillation.velocities import Velocity, guided

SHAPE = (3, 2, 4, 4)


def _draws(seed: int = 0) -> Draws:
    return Draws(torch.Generator().manual_seed(seed), torch.device("cpu"))


def _line(slope: Tensor | float, offset: float = 0.0) -> Velocity:
    return lambda latents, sigmas: slope * latents + offset * sigmas[:, None, None, None]


def _voices(student: Tensor | float = 0.3, fake: float = 0.2) -> Voices:
    def pair(latents: Tensor, sigmas: Tensor) -> tuple[Tensor, Tensor]:
        return _line(0.1)(latents, sigmas), _line(0.4)(latents, sigmas)

    return Voices(_line(student), _line(0.4), pair, _line(fake))


def test_where_fake_and_teacher_agree_distributions_match() -> None:
    estimate = _draws().noise(torch.empty(SHAPE))
    direction, real = matched(_voices(fake=0.4), estimate, _draws(1))
    assert torch.equal(direction, torch.zeros(SHAPE))
    assert pull(estimate, direction, real) == 0


def test_the_direction_of_matching_is_from_fake_to_teacher() -> None:
    estimate = _draws().noise(torch.empty(SHAPE))
    direction, real = matched(_voices(fake=0.2), estimate, _draws(1))
    again = _draws(1)
    sigmas = again.uniform(3, 0.02, 0.98)
    latents = noised(estimate, sigmas, again.noise(estimate))
    wide = sigmas[:, None, None, None]
    assert torch.allclose(direction, -wide * (0.4 - 0.2) * latents, atol=1e-6)
    assert torch.allclose(real, latents - wide * 0.4 * latents, atol=1e-6)


def test_augmentation_is_the_direction_of_guidance() -> None:
    voices, estimate, sigmas = _voices(), _draws().noise(torch.empty(SHAPE)), torch.tensor([0.2, 0.5, 0.9])
    direction, real = augmented(voices, 6.0, estimate, sigmas, _draws(1))
    latents = noised(estimate, sigmas, _draws(1).noise(estimate))
    with_guidance = clean(guided(voices.pair, 7.0), latents, sigmas)
    assert torch.allclose(direction, with_guidance - clean(voices.teacher, latents, sigmas), atol=1e-5)
    assert torch.allclose(real, clean(voices.teacher, latents, sigmas), atol=1e-6)


@pytest.mark.parametrize("spread", [2.0, 0.01])
def test_the_gradient_is_minus_the_normalised_direction(spread: float) -> None:
    estimate = torch.zeros(SHAPE, requires_grad=True)
    direction = _draws().noise(estimate)
    pull(estimate, direction, torch.full(SHAPE, spread)).backward()
    expected = -2 * direction / max(0.1, spread) / direction.numel()
    assert estimate.grad is not None
    assert torch.allclose(estimate.grad, expected, atol=1e-8)


def test_only_the_student_gets_gradients_and_its_targets_are_stopped() -> None:
    own, his, false = (torch.tensor(slope, requires_grad=True) for slope in (0.3, 0.4, 0.2))
    student, teacher, fake = _line(own), _line(his), _line(false)
    voices = Voices(student, teacher, lambda x, s: (0.5 * teacher(x, s), teacher(x, s)), fake)
    anchor = Anchor(_draws().noise(torch.empty(SHAPE)), torch.tensor([1.0, 0.6, 0.3]))
    loss, parts = student_loss(voices, anchor, 2.5, _draws(1))
    assert set(parts) == {"ca", "dm", "cdm"}
    assert float(loss.detach()) == pytest.approx(sum(parts.values()), rel=1e-5)
    loss.backward()
    assert own.grad is not None
    assert false.grad is None
    assert his.grad is None
    fake_loss(voices.fake, voices.student, anchor, _draws(2)).backward()
    assert false.grad is not None


def test_the_fake_learns_the_velocity_of_what_the_student_makes() -> None:
    """A student that makes one picture whatever it is given: the fake that knows it has no loss."""
    picture = _draws().noise(torch.empty(SHAPE))

    def towards(latents: Tensor, sigmas: Tensor) -> Tensor:
        return (latents - picture) / sigmas[:, None, None, None]

    anchor = Anchor(_draws(1).noise(picture), torch.tensor([1.0, 0.6, 0.3]))
    assert float(fake_loss(towards, towards, anchor, _draws(2))) == pytest.approx(0, abs=1e-8)
    assert float(fake_loss(_line(0.3), towards, anchor, _draws(2))) > 0.1


def test_levels_of_a_rollout_fall_from_one_and_differ_by_row() -> None:
    levels = random_levels(6, 3, _draws())
    assert levels.shape == (6, 3)
    assert torch.equal(levels[0], torch.ones(3))
    assert bool((levels[1:] < levels[:-1]).all())
    assert not torch.equal(levels[1:, 0], levels[1:, 1])
    assert random_levels(1, 3, _draws()).shape == (1, 3)


def test_an_anchor_lies_on_the_students_own_way() -> None:
    noise = _draws().noise(torch.empty(SHAPE))
    seen = set()
    for seed in range(12):
        anchor = draw_anchor(_line(0.3), noise, 4, _draws(seed))
        seen.add(bool((anchor.sigmas == 1).all()))
        if (anchor.sigmas == 1).all():
            assert torch.equal(anchor.latents, noise)
        else:  # slope 0.3: every Euler step multiplies by 1 − 0.3·|Δs|, together nearly exp(−0.3·(1 − s))
            ratio = (anchor.latents / noise).mean(dim=(1, 2, 3))
            assert torch.allclose(ratio, torch.exp(-0.3 * (1 - anchor.sigmas)), atol=0.05)
    assert seen == {True, False}
