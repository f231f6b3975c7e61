"""The text encoders' and the autoencoder's graphs return what the pipeline reads of the models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from unipic2_edge.export.encoders import ClipGraph, T5Graph, VaeDecoderGraph, VaeEncoderGraph
from unipic2_edge.training.checkpoint import Checkpoint

TEXTS = ["a red circle", "", "remove the small blue square"]


@pytest.fixture
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return Checkpoint.open(tiny_checkpoint)


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
@torch.no_grad()
def test_clip(checkpoint: Checkpoint, part: str) -> None:
    model = checkpoint.load_text_encoder(part)
    ids = checkpoint.tokenizers()(TEXTS)[("text_encoder", "text_encoder_2").index(part)]
    hidden, pooled = ClipGraph(model)(ids)
    output = model(ids, output_hidden_states=True)
    assert torch.equal(hidden, output.hidden_states[-2])
    assert torch.equal(pooled, output.text_embeds)


@torch.no_grad()
def test_clip_pools_at_the_end_token_in_both_of_transformers_ways() -> None:
    # The published configs say eos_token_id 2, which transformers reads as "the largest id".
    for eos in (2, 99):
        config = CLIPTextConfig(
            vocab_size=100,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=8,
            projection_dim=16,
            eos_token_id=eos,
            bos_token_id=98,
        )
        model = CLIPTextModelWithProjection(config).eval()
        ids = torch.tensor([[98, 5, 6, 99, 99, 99, 99, 99]])
        _, pooled = ClipGraph(model)(ids)
        at_end = model.text_projection(model.text_model(ids).last_hidden_state[:, 3])
        assert torch.allclose(pooled, at_end, atol=1e-6)


@torch.no_grad()
def test_t5_without_its_mask(checkpoint: Checkpoint) -> None:
    model = checkpoint.load_text_encoder("text_encoder_3")
    tokenizers = checkpoint.tokenizers()
    ids = tokenizers(TEXTS)[2]
    made = T5Graph(model, tokenizers.lengths[2])(ids)
    expected = model(ids).last_hidden_state
    assert float((made - expected).norm() / expected.norm()) < 1e-6


@torch.no_grad()
def test_t5_in_float16_adds_up_beyond_its_range(checkpoint: Checkpoint) -> None:
    """The published T5's feed-forward results do not fit into float16; every product is in it all the same."""
    whole = checkpoint.load_text_encoder("text_encoder_3")
    for block in whole.encoder.block:
        block.layer[1].DenseReluDense.wo.weight *= 1e5
    tokenizers = checkpoint.tokenizers()
    ids = tokenizers(TEXTS)[2]
    expected = whole(ids, output_hidden_states=True)
    assert expected.hidden_states[1].abs().max() > 2 * torch.finfo(torch.float16).max
    made = T5Graph(whole.half(), tokenizers.lengths[2])
    assert {parameter.dtype for parameter in made.parameters()} == {torch.float16}
    assert float((made(ids) - expected.last_hidden_state).norm() / expected.last_hidden_state.norm()) < 2e-2


@torch.no_grad()
def test_the_autoencoder(checkpoint: Checkpoint) -> None:
    vae = checkpoint.load_vae()
    image = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, logvar = VaeEncoderGraph(vae)(image)
    posterior = vae.encode(image).latent_dist
    assert torch.equal(mean, posterior.mean)
    assert torch.equal(logvar, posterior.logvar)
    assert torch.equal(VaeDecoderGraph(vae)(mean), vae.decode(mean).sample)
