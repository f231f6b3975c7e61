"""The PyTorch pipeline is diffusers' SD3 pipeline when nothing is edited, and sees the reference when something is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import AutoTokenizer

from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.layout import MODELS, TOKENIZERS
from unipic2_edge.training.pipeline import KontextPipeline


@pytest.fixture(scope="module")
def pipeline(tiny_checkpoint: Checkpoint) -> KontextPipeline:
    return KontextPipeline(tiny_checkpoint)


def _noise(count: int, rows: int = 16, columns: int = 16) -> torch.Tensor:
    return torch.randn(count, 8, rows, columns, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("guidance", [1.0, 3.5])
def test_generation_is_diffusers(tiny_checkpoint: Checkpoint, pipeline: KontextPipeline, guidance: float) -> None:
    peer = StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel.from_pretrained(tiny_checkpoint.path("transformer")),
        vae=tiny_checkpoint.load_vae(),
        scheduler=tiny_checkpoint.load_scheduler(),
        **{part: tiny_checkpoint.load_text_encoder(part) for part in MODELS[2:]},
        **{name: AutoTokenizer.from_pretrained(tiny_checkpoint.path(name)) for name in TOKENIZERS},
    )
    peer.set_progress_bar_config(disable=True)
    prompts, noise = ["a red circle", "two squares"], _noise(2, 16, 24)
    expected = peer(
        prompts,
        negative_prompt=["a ring"] * 2,
        height=64,
        width=96,
        num_inference_steps=4,
        guidance_scale=guidance,
        latents=noise.clone(),
        max_sequence_length=16,
        output_type="latent",
    ).images
    _, made = pipeline(prompts, noise, negative_prompt="a ring", num_inference_steps=4, guidance_scale=guidance)
    assert float((made - expected).norm() / expected.norm()) < 1e-5


def test_editing_sees_the_picture(pipeline: KontextPipeline) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(2)]
    words, noise = ["make the circle blue"], _noise(1)
    made = [pipeline(words, noise, [picture], num_inference_steps=3)[1] for picture in pictures]
    again = pipeline(words, noise, [pictures[0]], num_inference_steps=3)[1]
    assert torch.equal(made[0], again)
    assert not torch.allclose(made[0], made[1], atol=1e-3)
    assert not torch.allclose(made[0], pipeline(words, noise, num_inference_steps=3)[1], atol=1e-3)


def test_pictures_have_the_size_of_the_latents(pipeline: KontextPipeline) -> None:
    pictures, latents = pipeline(["a ring"], _noise(1, 16, 24), num_inference_steps=1)
    assert [(picture.shape, picture.dtype) for picture in pictures] == [((64, 96, 3), np.uint8)]
    assert latents.shape == (1, 8, 16, 24)


def test_a_picture_does_not_depend_on_its_neighbours(pipeline: KontextPipeline) -> None:
    noise = _noise(2)
    both = pipeline(["a red circle", "a blue ring"], noise, num_inference_steps=3)[1]
    alone = pipeline(["a blue ring"], noise[1:], num_inference_steps=3)[1]
    assert torch.allclose(both[1:], alone, atol=1e-4)
