"""Variants of one denoiser: each its own weights, none in another's way, and the base never touched."""

from __future__ import annotations

import copy
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from unipic2_edge.training.configs import KONTEXT
from unipic2_edge.training.errors import RecipeError
from unipic2_edge.training.randomness import randomise
from unipic2_edge.training.recipe import Adapter
from unipic2_edge.training.transformer import KontextTransformer
from unipic2_edge.training.variants import Variants

ADAPTERS = [Adapter(rank=4, alpha=8), None]


def _base() -> KontextTransformer:
    model = KontextTransformer(**KONTEXT["tiny-kontext"].transformer)
    randomise(model, seed=3)
    return model


def _inputs() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(2, 8, 8, 8, generator=generator),
        "encoder_hidden_states": torch.randn(2, 5, 192, generator=generator),
        "pooled_projections": torch.randn(2, 192, generator=generator),
        "timestep": torch.tensor([900.0, 300.0]),
        "ref_hidden_states": torch.randn(2, 8, 8, 8, generator=generator),
        "return_dict": False,
    }


def _moved(variants: Variants, name: str, seed: int = 5) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in variants.parameters_of(name):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


def _gradients(variants: Variants, name: str) -> list[Tensor]:
    gradients = [parameter.grad for parameter in variants.parameters_of(name)]
    assert all(gradient is not None for gradient in gradients)
    return [gradient for gradient in gradients if gradient is not None]


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_first_every_variant_is_the_base_bit_for_bit(adapter: Adapter | None, dtype: torch.dtype) -> None:
    base = _base()
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        expected = copy.deepcopy(base)(**_inputs())[0]
        variants = Variants(base, ["new", "old"], adapter, ["new"])
        for name in ("new", "old", None):
            assert torch.equal(variants(name, **_inputs())[0], expected)
    for first, second in zip(variants.parameters_of("new"), variants.parameters_of("old"), strict=True):
        assert torch.equal(first, second)
        assert first.requires_grad
        assert not second.requires_grad


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_training_one_leaves_base_and_others_bitwise_as_they_were(adapter: Adapter | None) -> None:
    variants = Variants(_base(), ["new", "old"], adapter, ["new"])
    theirs = {name for name, _ in variants.named_parameters() if variants.variant_of(name) == "new"}
    assert len(theirs) == len(variants.parameters_of("new"))
    before = {name: tensor.clone() for name, tensor in variants.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in variants.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        difference = variants("new", **_inputs())[0] - variants("old", **_inputs())[0]
        (difference.square().mean() + variants("new", **_inputs())[0].mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {name for name, tensor in variants.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert changed <= theirs


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_switch_before_the_backward_pass_changes_no_gradient(adapter: Adapter | None, checkpointing: bool) -> None:
    variants = Variants(_base(), ["student", "critic"], adapter, ["student", "critic"])
    _moved(variants, "student", 1)
    _moved(variants, "critic", 2)
    alone = {}
    for name in ("student", "critic"):
        variants(name, **_inputs())[0].square().mean().backward()
        alone[name] = [gradient.clone() for gradient in _gradients(variants, name)]
        variants.zero_grad()
    if checkpointing:
        variants.enable_gradient_checkpointing()
    losses = [variants(name, **_inputs())[0].square().mean() for name in ("student", "critic")]
    with torch.no_grad():
        variants(None, **_inputs())
    (losses[0] + losses[1]).backward()
    for name, expected in alone.items():
        for gradient, wanted in zip(_gradients(variants, name), expected, strict=True):
            assert torch.allclose(gradient, wanted, atol=1e-7)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_blend_moves_the_target_only(adapter: Adapter | None) -> None:
    variants = Variants(_base(), ["new", "old"], adapter, ["new"])
    _moved(variants, "new")
    new, old = ([p.detach().clone() for p in variants.parameters_of(name)] for name in ("new", "old"))
    variants.blend("old", "new", 0.75)
    for blended, a, b in zip(variants.parameters_of("old"), old, new, strict=True):
        assert torch.allclose(blended, 0.75 * a + 0.25 * b)
    variants.blend("old", "new", 0.0)
    for blended, kept, b in zip(variants.parameters_of("old"), variants.parameters_of("new"), new, strict=True):
        assert torch.equal(blended, b)
        assert torch.equal(kept, b)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_merged_is_a_plain_denoiser_that_says_the_same(adapter: Adapter | None) -> None:
    plain_keys = _base().state_dict().keys()
    variants = Variants(_base(), ["new", "old"], adapter, ["new"])
    variants.enable_gradient_checkpointing()
    _moved(variants, "new")
    with torch.no_grad():
        for name in ("new", None):
            merged = variants.merged(name)
            assert merged.state_dict().keys() == plain_keys
            assert torch.allclose(merged(**_inputs())[0], variants(name, **_inputs())[0], atol=1e-4)
        assert not torch.equal(variants("new", **_inputs())[0], variants("old", **_inputs())[0])


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_saved_state_brings_every_variant_back(adapter: Adapter | None, tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    variants = accelerator.prepare(Variants(_base(), ["new", "old"], adapter, ["new"]))
    _moved(variants, "new")
    saved = {name: tensor.clone() for name, tensor in variants.state_dict().items()}
    accelerator.save_state(str(tmp_path / "state"), safe_serialization=True)
    _moved(variants, "new", 8)
    _moved(variants, "old", 9)
    accelerator.load_state(str(tmp_path / "state"))
    for name, tensor in variants.state_dict().items():
        assert torch.equal(tensor, saved[name])


def test_a_target_that_is_not_there_is_named() -> None:
    with pytest.raises(RecipeError, match="to_quary"):
        Variants(_base(), ["new"], Adapter(targets=("to_q", "to_quary")), ["new"])


@pytest.mark.slow
def test_compiled_blocks_tell_the_variants_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="eager"))
    variants = Variants(_base(), ["new", "old"], Adapter(rank=4), ["new"])
    _moved(variants, "new")
    with torch.no_grad():
        expected = {name: variants(name, **_inputs())[0] for name in ("new", "old", None)}
        variants.compile_blocks()
        for name, wanted in expected.items():
            assert torch.allclose(variants(name, **_inputs())[0], wanted, atol=1e-5)
