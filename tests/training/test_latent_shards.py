"""Encoded shards: the same whenever they are made, and what they hold is what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.latent_shards import LatentShards
from unipic2_edge.training.shapes.scene import Canvas

CPU = torch.device("cpu")


def _shards(checkpoint: Checkpoint, folder: Path) -> LatentShards:
    canvases = [Canvas(64, 64), Canvas(96, 64)]
    return LatentShards(folder, checkpoint.load_vae(), checkpoint.tokenizers(), canvases, 2, seed=1, pairs=8)


def test_batches_are_the_same_after_the_shards_are_made_again(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    batches = []
    for folder in ("one", "two"):
        shards = _shards(tiny_checkpoint, tmp_path / folder)
        batches.append(shards.batch(np.random.default_rng(0), 2, 4, True, CPU))
    first, second = batches
    assert torch.equal(first.latents, second.latents)
    assert first.reference is not None
    assert second.reference is not None
    assert torch.equal(first.reference, second.reference)
    assert all(torch.equal(a, b) for a, b in zip(first.ids, second.ids, strict=True))


def test_generation_has_no_reference_and_editing_has_one_of_the_same_shape(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    shards = _shards(tiny_checkpoint, tmp_path)
    widths = set()
    for seed in range(8):
        generation = shards.batch(np.random.default_rng(seed), 2, 3, False, CPU)
        assert generation.reference is None
        edit = shards.batch(np.random.default_rng(seed), 2, 3, True, CPU)
        assert edit.reference is not None
        assert edit.reference.shape == edit.latents.shape
        assert [part.shape[1] for part in edit.ids] == shards.tokenize.lengths
        widths.add(edit.latents.shape[-1])
    assert widths == {16, 24}


def test_composed_pictures_take_their_share_of_what_captions_draw(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    parts = (tmp_path, tiny_checkpoint.load_vae(), tiny_checkpoint.tokenizers(), [Canvas(64, 64)])
    shards = LatentShards(*parts, captions=2, seed=1, pairs=8, composed=1.0)
    batch = shards.batch(np.random.default_rng(0), 1, 4, False, CPU)
    stored = np.load(tmp_path / "0000-composed.npy").astype(np.float32)
    assert batch.reference is None
    assert all(any(np.array_equal(row, one) for one in stored) for row in batch.latents.numpy())
    shards.composed = 0.5
    some = [shards.batch(np.random.default_rng(seed), 1, 4, False, CPU).latents.numpy() for seed in range(16)]
    assert {any(np.array_equal(drawn[0], one) for one in stored) for drawn in some} == {True, False}
    world = np.load(tmp_path / "0000-source.npy").astype(np.float32)
    edit = shards.batch(np.random.default_rng(0), 1, 4, True, CPU)
    assert edit.reference is not None
    assert all(any(np.array_equal(row, one) for one in world) for row in edit.reference.numpy())
