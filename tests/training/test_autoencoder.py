"""The autoencoder stage: pictures survive the tensors' round trip, and the latents' scales fold in exactly."""

from __future__ import annotations

import numpy as np
import torch

from unipic2_edge.training.autoencoder import normalise_latents, to_pictures, to_tensor
from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.shapes.render import render
from unipic2_edge.training.shapes.scene import Canvas, sample_scene


def _pictures(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [render(sample_scene(rng, Canvas(64, 64))) for _ in range(count)]


def test_pictures_survive_the_round_trip() -> None:
    pictures = _pictures(4)
    for before, after in zip(pictures, to_pictures(to_tensor(pictures)), strict=True):
        assert np.array_equal(before, after)


@torch.no_grad()
def test_normalised_latents_have_unit_scale_and_decode_the_same(tiny_checkpoint: Checkpoint) -> None:
    images = to_tensor(_pictures(12))
    before, after = tiny_checkpoint.load_vae(), tiny_checkpoint.load_vae()
    normalise_latents(after, images)
    latents = after.encode(images).latent_dist.mode()
    assert torch.allclose(latents.std(dim=(0, 2, 3)), torch.ones(8), atol=1e-3)
    expected = before.decode(before.encode(images).latent_dist.mode()).sample
    assert torch.allclose(after.decode(latents).sample, expected, atol=1e-4)
    generator = (torch.Generator().manual_seed(1) for _ in range(2))
    ours, theirs = (vae.encode(images).latent_dist.sample(next(generator)) for vae in (after, before))
    assert torch.allclose(after.decode(ours).sample, before.decode(theirs).sample, atol=1e-4)


def test_pictures_and_latents_agree_with_the_config(tiny_checkpoint: Checkpoint) -> None:
    vae = tiny_checkpoint.load_vae()
    latents = vae.encode(to_tensor(_pictures(1))).latent_dist.mode()
    assert latents.shape == (1, vae.config.latent_channels, 16, 16)
