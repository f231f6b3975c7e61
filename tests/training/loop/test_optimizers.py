"""Muon: orthogonal directions, each parameter in exactly one optimiser, and it learns."""

from __future__ import annotations

import torch
from torch import nn

from unipic2_edge.training.configs import KONTEXT
from unipic2_edge.training.loop.optimizers import Muon, make_optimizers, orthogonalised
from unipic2_edge.training.recipe import Optimizer
from unipic2_edge.training.transformer import KontextTransformer


def test_orthogonalised_has_singular_values_near_one() -> None:
    for shape in ((3, 32, 64), (3, 64, 32), (2, 48, 48)):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
        assert values.min() > 0.3
        assert values.max() < 1.4


def test_every_parameter_is_in_exactly_one_optimizer() -> None:
    model = KontextTransformer(**KONTEXT["tiny-kontext"].transformer)
    optimizers = make_optimizers(model, Optimizer(name="muon"))
    held = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    assert any(isinstance(optimizer, Muon) for optimizer in optimizers)


def test_muon_fits_a_linear_map() -> None:
    torch.manual_seed(0)
    layer, target = nn.Linear(16, 16, bias=False), torch.randn(16, 16)
    inputs = torch.randn(256, 16)
    optimizer = Muon([layer.weight], lr=0.2)
    losses = []
    for step in range(200):
        for group in optimizer.param_groups:
            group["lr"] = 0.2 * (1 - step / 200)
        loss = (layer(inputs) - inputs @ target.T).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.01 * losses[0]


def test_a_stage_may_slow_single_parameters() -> None:
    model = KontextTransformer(**KONTEXT["tiny-kontext"].transformer)
    slow = "transformer_blocks.0.attn.to_q.weight"
    muon = make_optimizers(model, Optimizer(name="muon", lr=0.5), lambda name: 0.1 if name == slow else 1.0)[1]
    rates = {id(p): group["lr"] for group in muon.param_groups for p in group["params"]}
    assert rates.pop(id(model.get_parameter(slow))) == 0.05
    assert set(rates.values()) == {0.5}
