"""KontextTransformer is diffusers' SD3 transformer, with the reference's tokens before the noisy ones."""

from __future__ import annotations

import torch
from diffusers import SD3Transformer2DModel

from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.configs import KONTEXT
from unipic2_edge.training.transformer import KontextTransformer


def _inputs(model: KontextTransformer, rows: int = 16, columns: int = 24) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    config = model.config
    return {
        "hidden_states": torch.randn(2, config.in_channels, rows, columns, generator=generator),
        "encoder_hidden_states": torch.randn(2, 9, config.joint_attention_dim, generator=generator),
        "pooled_projections": torch.randn(2, config.pooled_projection_dim, generator=generator),
        "timestep": torch.tensor([700.0, 30.0]),
    }


@torch.no_grad()
def test_without_a_reference_it_is_diffusers_transformer_bit_for_bit(tiny_checkpoint: Checkpoint) -> None:
    ours = tiny_checkpoint.load_transformer()
    theirs = SD3Transformer2DModel(**KONTEXT["tiny-kontext"].transformer).eval()
    assert set(ours.state_dict()) == set(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    inputs = _inputs(ours)
    assert torch.equal(ours(**inputs).sample, theirs(**inputs).sample)


@torch.no_grad()
def test_the_reference_changes_the_velocity_and_not_its_shape(tiny_checkpoint: Checkpoint) -> None:
    model = tiny_checkpoint.load_transformer()
    inputs = _inputs(model)
    plain = model(**inputs).sample
    referred = model(**inputs, ref_hidden_states=torch.randn_like(inputs["hidden_states"])).sample
    assert referred.shape == plain.shape
    assert not torch.allclose(referred, plain, atol=1e-3)


@torch.no_grad()
def test_rows_of_a_batch_do_not_see_each_other(tiny_checkpoint: Checkpoint) -> None:
    model = tiny_checkpoint.load_transformer()
    inputs = _inputs(model)
    reference = torch.randn(inputs["hidden_states"].shape, generator=torch.Generator().manual_seed(3))
    both = model(**inputs, ref_hidden_states=reference).sample
    one = model(**{name: value[1:] for name, value in inputs.items()}, ref_hidden_states=reference[1:]).sample
    assert torch.allclose(both[1:], one, atol=1e-4)


def test_gradient_checkpointing_gives_the_same_gradients(tiny_checkpoint: Checkpoint) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tiny_checkpoint.load_transformer().train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        model(**_inputs(model)).sample.square().mean().backward()
        gradients.append(model.pos_embed.proj.weight.grad.clone())
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-7)
