"""The two algorithms on toys whose answers are known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unipic2_edge.training.flow import Condition
from unipic2_edge.training.reinforcement.algorithm import (
    POLICY,
    Algorithm,
    Episode,
    Items,
    Told,
    advantages,
    equal_groups,
    velocity,
)
from unipic2_edge.training.reinforcement.diffusion_nft import DiffusionNft, nft_loss
from unipic2_edge.training.reinforcement.flow_grpo import FlowGrpo
from unipic2_edge.training.reinforcement.rollout import roll_out
from unipic2_edge.training.reinforcement.settings import Grpo, Nft, Noise, Reinforce

SIGMAS = (1.0, 0.8, 0.5, 0.2, 0.0)
GROUP = 64


class Shift(nn.Module):
    """The exact velocity towards N(a, 1), a = what the prompt says + a variant's shift; notes the rows it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.shifts = nn.ParameterDict({POLICY: nn.Parameter(torch.zeros(2)), "old": nn.Parameter(torch.zeros(2))})
        self.rows: list[int] = []

    def forward(
        self,
        variant: str | None,
        latents: Tensor,
        context: Tensor,
        pooled: Tensor,
        times: Tensor,
        reference: Tensor | None,
        return_dict: bool,
    ) -> tuple[Tensor]:
        self.rows.append(len(latents))
        shift = torch.zeros(2) if variant is None else self.shifts[variant]
        point = context[:, 0, :1, None, None] + shift[None, :, None, None]
        s = (times / 1000)[:, None, None, None]
        return ((2 * s - 1) / ((1 - s) ** 2 + s**2) * (latents - (1 - s) * point) - point,)


def _told(prompts: int = 1, guidance: float = 1.0) -> Told:
    negative = Condition(torch.full((1, 1, 1), -1.0), torch.zeros(1, 1), None) if guidance > 1 else None
    return Told(Condition(torch.zeros(prompts, 1, 1), torch.zeros(prompts, 1), None), negative, guidance)


def _episode(algorithm: Algorithm, model: Shift, steps: tuple[int, ...] = (0, 1, 2), guidance: float = 1.0) -> Episode:
    """One prompt's group, rated by the mean of the first channel: the more the better."""
    told = _told(guidance=guidance)
    prompts = torch.zeros(GROUP, dtype=torch.long)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(GROUP, 2, 2, 2, generator=generator)

    def flow(latents: Tensor, sigmas: Tensor) -> Tensor:
        return velocity(model, algorithm.actor, told, prompts, latents, sigmas)

    trajectory = roll_out(flow, start, SIGMAS, algorithm.noise, steps, generator)
    gained = advantages(trajectory.clean[:, 0].mean(dim=(1, 2)), GROUP, 5.0)
    return Episode(told, trajectory, SIGMAS, gained)


def _loss(algorithm: Algorithm, model: Shift, episode: Episode) -> tuple[Tensor, dict[str, float]]:
    items = algorithm.items(episode, torch.Generator().manual_seed(1))
    return algorithm.loss(model, episode, items, torch.Generator().manual_seed(2))


def _grpo(**changes: Any) -> FlowGrpo:
    settings: dict[str, Any] = {"noise": Noise(kind="sde", level=0.7), "grpo": Grpo(clip=0.2, kl=0.0), "updates": 2}
    return FlowGrpo(Reinforce(algorithm="flow-grpo", **(settings | changes)))


def test_advantages_are_relative_to_the_prompt_and_scaled_by_all() -> None:
    values = torch.tensor([0.2, 0.4, 0.6, 1.0, 1.0, 1.0])
    expected = torch.tensor([-0.2, 0.0, 0.2, 0.0, 0.0, 0.0]) / (values.std(correction=0) + 1e-4)
    assert torch.allclose(advantages(values, 3, 5.0), expected, atol=1e-6)
    assert float(advantages(torch.tensor([0.0] * 99 + [1.0]), 100, 5.0).max()) == 5.0
    assert equal_groups(values, 3) == 0.5


def test_guidance_is_folded_into_one_batch() -> None:
    model = Shift()
    latents = torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    rows, levels = torch.zeros(3, dtype=torch.long), torch.full((3,), 0.5)
    plain = velocity(model, None, _told(), rows, latents, levels)
    guided = velocity(model, None, _told(guidance=3.0), rows, latents, levels)
    assert model.rows == [3, 6]
    # The negative's mean is −1, the prompt's 0, so at s = ½ v_neg = v + 1, and v_neg + 3·(v − v_neg) = v − 2.
    assert torch.allclose(guided, plain - 2)


@pytest.mark.parametrize("kind", ["sde", "cps"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_flow_grpo_starts_at_ratio_one_and_goes_where_the_reward_is(kind: Any, guidance: float) -> None:
    model, algorithm = Shift(), _grpo(noise=Noise(kind=kind, level=0.7))
    episode = _episode(algorithm, model, guidance=guidance)
    loss, metrics = _loss(algorithm, model, episode)
    assert metrics["ratio_distance"] < 1e-5
    assert metrics["clipped"] == 0
    loss.backward()
    gradient = model.shifts[POLICY].grad
    assert gradient is not None
    assert float(gradient[0]) < 0  # downhill is towards more of the first channel
    assert abs(float(gradient[1])) < 0.35 * abs(float(gradient[0]))
    assert model.shifts["old"].grad is None


def test_flow_grpo_with_one_update_is_exactly_on_policy() -> None:
    model, algorithm = Shift(), _grpo(updates=1)
    episode = _episode(algorithm, model)
    loss, metrics = _loss(algorithm, model, episode)
    assert metrics["ratio_distance"] == 0
    assert float(loss.detach()) == pytest.approx(-float(episode.advantages.mean()), abs=1e-6)


def test_flow_grpo_clips_what_has_gone_far_enough() -> None:
    model, algorithm = Shift(), _grpo(grpo=Grpo(clip=1e-4, kl=0.0))
    episode = _episode(algorithm, model)
    with torch.no_grad():
        model.shifts[POLICY] += 0.05
    loss, metrics = _loss(algorithm, model, episode)
    assert metrics["clipped"] > 0.9
    # Where the ratio has gone beyond the clip in the advantage's direction, nothing more is gained.
    new = [_gain(algorithm, model, episode, picture) for picture in range(8)]
    assert min(abs(gradient) for gradient in new) == 0.0
    assert max(abs(gradient) for gradient in new) > 0.0
    assert torch.isfinite(loss)


def _gain(algorithm: FlowGrpo, model: Shift, episode: Episode, picture: int) -> float:
    """The gradient that one picture's first step leaves."""
    items = Items(torch.tensor([picture]), torch.tensor([0]))
    gradients = torch.autograd.grad(algorithm.loss(model, episode, items, torch.Generator())[0], [model.shifts[POLICY]])
    return float(gradients[0].abs().sum())


def test_flow_grpos_kl_is_that_of_the_two_normals() -> None:
    model, algorithm = Shift(), _grpo(grpo=Grpo(clip=0.2, kl=1.0), noise=Noise(kind="cps", level=0.5))
    episode = _episode(algorithm, model, steps=(1,))
    with torch.no_grad():
        model.shifts[POLICY] += 0.3
    _, metrics = _loss(algorithm, model, episode)
    before = episode.trajectory.before[0]
    means = []
    for variant in (POLICY, None):
        v = velocity(
            model, variant, episode.told, torch.zeros(GROUP, dtype=torch.long), before, torch.full((GROUP,), 0.8)
        )
        clean, pure = before - 0.8 * v, before + 0.2 * v
        std = 0.5 * float(torch.sin(torch.tensor(torch.pi / 4)))
        means.append(torch.distributions.Normal(clean * 0.5 + pure * (0.25 - std**2) ** 0.5, std))
    expected = torch.distributions.kl_divergence(means[0], means[1]).mean()
    assert metrics["kl"] == pytest.approx(float(expected.detach()), rel=1e-4)


def _nft_gradient(share: float, mix: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    old, clean, noise = (torch.randn(1, 2, 4, 4, generator=generator) for _ in range(3))
    times = torch.tensor([0.6])
    noisy = 0.4 * clean + 0.6 * noise
    new = old.clone().requires_grad_()
    nft_loss(new, old, noisy, clean, times, torch.tensor([share]), mix).backward()
    assert new.grad is not None
    return new.grad


@pytest.mark.parametrize("mix", [1.0, 0.5])
def test_diffusion_nfts_gradient_is_proportional_to_2r_minus_1_at_the_old_velocity(mix: float) -> None:
    best = _nft_gradient(1.0, mix)
    assert float(best.abs().max()) > 0
    for share in (0.0, 0.3, 0.5, 0.8):
        assert torch.allclose(_nft_gradient(share, mix), (2 * share - 1) * best, atol=1e-7)
    assert torch.allclose(_nft_gradient(1.0, 1.0), _nft_gradient(1.0, 0.5), atol=1e-7)


def test_diffusion_nft_with_r_one_is_flow_matching() -> None:
    generator = torch.Generator().manual_seed(0)
    old, new, clean, noise = (torch.randn(5, 2, 4, 4, generator=generator) for _ in range(4))
    times = torch.linspace(0.1, 0.9, 5)
    t = times[:, None, None, None]
    noisy = (1 - t) * clean + t * noise
    away = t * (new - (noise - clean))  # x̂ − x0 = −t·(v − (ε − x0))
    expected = (away.square().mean((1, 2, 3)) / away.abs().mean((1, 2, 3))).mean()
    assert torch.allclose(nft_loss(new, old, noisy, clean, times, torch.ones(5), 1.0), expected)


def test_diffusion_nft_goes_where_the_reward_is_and_the_old_one_follows() -> None:
    model, algorithm = Shift(), DiffusionNft(Reinforce(nft=Nft(times=3, kl=0.1)))
    with torch.no_grad():
        model.shifts[POLICY] -= 0.01
    episode = _episode(algorithm, model, steps=())
    loss, metrics = _loss(algorithm, model, episode)
    assert metrics["old_distance"] > 0
    assert metrics["kl"] == pytest.approx(metrics["old_distance"], rel=1e-5)  # the old one is still the reference
    loss.backward()
    gradient = model.shifts[POLICY].grad
    assert gradient is not None
    assert float(gradient[0]) < 0
    assert model.shifts["old"].grad is None


def test_diffusion_nft_learns_from_every_picture_at_different_levels() -> None:
    algorithm = DiffusionNft(Reinforce(nft=Nft(times=3)))
    episode = _episode(algorithm, Shift(), steps=())
    items = algorithm.items(episode, torch.Generator().manual_seed(0))
    assert items.pictures.tolist() == [i for i in range(GROUP) for _ in range(3)]
    for row in items.places.view(GROUP, 3).tolist():
        assert len(set(row)) == 3
    assert set(items.places.tolist()) == {0, 1, 2, 3}  # never the clean end
    some = DiffusionNft(Reinforce(nft=Nft(times=3, sigmas=(0.3, 0.9))))
    assert set(some.items(episode, torch.Generator().manual_seed(0)).places.tolist()) == {1, 2}
