"""Sampling with noise: Euler's step without it, the right distribution with it, and the same draws for a seed."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from unipic2_edge.training.reinforcement.rollout import Trajectory, move, noisy_steps, roll_out
from unipic2_edge.training.reinforcement.settings import Noise

SIGMAS = (1.0, 0.9, 0.75, 0.5, 0.25, 0.0)


def _flow(latents: Tensor, sigmas: Tensor) -> Tensor:
    return torch.sin(3 * latents) + sigmas[:, None, None, None]


def _drawn(count: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(count, 2, 4, 4, generator=torch.Generator().manual_seed(seed))


def _levels(sigma: float, following: float) -> tuple[Tensor, Tensor]:
    return torch.full((3,), sigma), torch.full((3,), following)


@pytest.mark.parametrize("kind", ["sde", "cps"])
def test_at_level_zero_every_step_is_eulers(kind: str) -> None:
    x, v = _drawn(), _drawn(seed=1)
    for sigma, following in pairwise(SIGMAS):
        levels = [torch.full((3,), level, dtype=torch.float64) for level in (sigma, following)]
        for latents, most in ((x, 5e-7), (x.double(), 1e-14)):  # a rounding or two of numbers of up to 4
            landing = move(Noise(kind=kind, level=0.0), latents, v, levels[0], levels[1], SIGMAS[1])
            away = (landing.mean - (latents + v.to(latents.dtype) * (following - sigma))).abs()
            assert float(away.max()) < most
            assert float(landing.std.abs().max()) == 0.0


@pytest.mark.parametrize("kind", ["sde", "cps"])
def test_the_formulas_by_hand(kind: str) -> None:
    x, v, s, after, a = _drawn().double(), _drawn(seed=1).double(), 0.75, 0.5, 0.7
    landing = move(Noise(kind=kind, level=a), x, v, *_levels(s, after), SIGMAS[1])
    if kind == "sde":
        std, dt = a * (s / (1 - s)) ** 0.5, after - s
        mean = x * (1 + std**2 / (2 * s) * dt) + v * (1 + std**2 * (1 - s) / (2 * s)) * dt
        deviation = std * (-dt) ** 0.5
    else:
        deviation = after * float(torch.sin(torch.tensor(a * torch.pi / 2, dtype=torch.float64)))
        mean = (x - s * v) * (1 - after) + (x + (1 - s) * v) * (after**2 - deviation**2) ** 0.5
    assert torch.allclose(landing.mean.double(), mean, atol=1e-6)
    assert float(landing.std[0]) == pytest.approx(deviation, rel=1e-6)


@pytest.mark.parametrize("kind", ["sde", "cps"])
@pytest.mark.parametrize("first", [True, False])
def test_the_log_probability_is_the_normal_distributions(kind: str, first: bool) -> None:
    pair = _levels(*(SIGMAS[0:2] if first else SIGMAS[2:4]))
    landing = move(Noise(kind=kind, level=0.6), _drawn(), _drawn(seed=1), *pair, SIGMAS[1])
    there = landing.mean + landing.std * _drawn(seed=2)
    expected = torch.distributions.Normal(landing.mean, landing.std.expand_as(landing.mean)).log_prob(there)
    assert torch.allclose(landing.log_prob(there), expected.mean(dim=(1, 2, 3)), atol=1e-6)
    assert bool(torch.isfinite(landing.log_prob(there)).all())


@pytest.mark.parametrize("kind", ["sde", "cps"])
def test_noise_keeps_the_marginals_of_a_gaussian(kind: str) -> None:
    """With data N(0, 1) every x_s is N(0, (1 − s)² + s²), whichever way one gets there; 200 steps, 3 % of slack."""

    def flow(latents: Tensor, sigmas: Tensor) -> Tensor:
        s = sigmas[:, None, None, None]
        return latents * (2 * s - 1) / ((1 - s) ** 2 + s**2)

    sigmas = tuple(torch.linspace(1, 0, 201).tolist())
    start = torch.randn(1, 1, 200, 200, generator=torch.Generator().manual_seed(0))
    noise = Noise(kind=kind, level=0.5 if kind == "sde" else 0.05)
    made = roll_out(flow, start, sigmas, noise, range(199), torch.Generator().manual_seed(1))
    assert float(made.clean.std()) == pytest.approx(1.0, rel=0.03)


def _rolled(noise: Noise, seed: int, steps: tuple[int, ...] = (0, 1, 2, 3)) -> Trajectory:
    return roll_out(_flow, _drawn(), SIGMAS, noise, steps, torch.Generator().manual_seed(seed))


def test_the_same_seed_gives_the_same_trajectory() -> None:
    first, again, other = _rolled(Noise(), 3), _rolled(Noise(), 3), _rolled(Noise(), 4)
    assert torch.equal(first.clean, again.clean)
    assert torch.equal(first.log_probs, again.log_probs)
    assert not torch.equal(first.clean, other.clean)


def test_a_trajectory_holds_the_noisy_steps_and_their_probabilities() -> None:
    made = _rolled(Noise(kind="sde", level=0.7), 3, steps=(1, 3))
    assert made.before.shape == made.after.shape == (2, 3, 2, 4, 4)
    for index, step in enumerate(made.steps):
        pair = _levels(SIGMAS[step], SIGMAS[step + 1])
        before = made.before[index]
        landing = move(Noise(kind="sde", level=0.7), before, _flow(before, pair[0]), *pair, SIGMAS[1])
        assert torch.allclose(landing.log_prob(made.after[index]), made.log_probs[index], atol=1e-6)


def test_without_noise_it_is_eulers_method() -> None:
    latents = _drawn()
    for sigma, following in pairwise(SIGMAS):
        latents = latents + _flow(latents, torch.full((3,), sigma)) * (following - sigma)
    made = _rolled(Noise(level=0.0), 3, steps=())
    assert torch.equal(made.clean, latents)
    assert made.before.shape == (0, 3, 2, 4, 4)


def test_the_window_lies_in_its_range_and_never_takes_the_last_step() -> None:
    generator = torch.Generator().manual_seed(0)
    assert noisy_steps(Noise(), 10, generator) == tuple(range(9))
    assert noisy_steps(Noise(level=0.0), 10, generator) == ()
    windows = {noisy_steps(Noise(window=3, window_range=(0, 5)), 10, generator) for _ in range(50)}
    assert windows == {(0, 1, 2), (1, 2, 3), (2, 3, 4)}
    assert noisy_steps(Noise(window=3, window_range=(0, 5)), 3, generator) == (0, 1)
