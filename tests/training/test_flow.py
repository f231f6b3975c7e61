"""Flow matching: the times drawn, and the sampler against a case that is known exactly."""

from __future__ import annotations

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from unipic2_edge.training.flow import sample, sigmas_for_training
from unipic2_edge.training.recipe import Flow


def test_uniform_times_go_through_the_shift() -> None:
    generator = torch.Generator().manual_seed(0)
    sigmas = sigmas_for_training(Flow(timesteps="uniform", shift=3.0), 20_000, generator)
    expected = 3 * 0.5 / (1 + 2 * 0.5)  # the median of u = 0.5, shifted
    assert float(sigmas.median()) == pytest.approx(expected, abs=0.01)
    assert 0 < float(sigmas.min()) < float(sigmas.max()) < 1


def test_logit_normal_times_have_its_quantiles() -> None:
    generator = torch.Generator().manual_seed(0)
    sigmas = sigmas_for_training(Flow(shift=1.0, logit_mean=0.5, logit_std=2.0), 20_000, generator)
    logits = torch.logit(sigmas.double())
    assert float(logits.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(logits.std()) == pytest.approx(2.0, abs=0.05)


class _Straight(nn.Module):
    """The exact velocity field towards one point: v = (x − x0) / s."""

    def __init__(self, point: Tensor) -> None:
        super().__init__()
        self.point = point

    def forward(
        self,
        noisy: Tensor,
        context: Tensor,
        pooled: Tensor,
        timestep: Tensor,
        reference: Tensor | None,
        return_dict: bool,
    ) -> tuple[Tensor]:
        target = self.point + context[:, :1, :1, None]
        return ((noisy - target) / (timestep / 1000)[:, None, None, None],)


@pytest.mark.parametrize("guidance", [1.0, 3.5])
def test_euler_reaches_the_point_and_guidance_extrapolates(guidance: float) -> None:
    point = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    rows = 4 if guidance > 1 else 2
    context = torch.zeros(rows, 1, 1)
    context[-2:] = 1.0  # the positive rows' point lies one off the negative rows'
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    made = sample(_Straight(point), scheduler, noise, context, torch.zeros(rows, 1), None, 9, guidance)
    offset = guidance if guidance > 1 else 1.0
    assert torch.allclose(made, (point + offset).expand_as(made), atol=1e-4)
