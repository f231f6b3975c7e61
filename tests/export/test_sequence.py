"""The sequence form computes what the image-shaped transformer computes: generation, editing, odd patch counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from unipic2_edge.export.sequence import position_tensors, split
from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.transformer import KontextTransformer


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _patches(latents: torch.Tensor, patch: int) -> torch.Tensor:
    """[B, C, H, W] → [B, N, C·p·p], written here anew so that the export's order is checked against a second hand."""
    return torch.nn.functional.unfold(latents, patch, stride=patch).transpose(1, 2)


def _relative(made: torch.Tensor, expected: torch.Tensor) -> float:
    return float((made - expected).norm() / expected.norm())


@pytest.fixture
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return Checkpoint.open(tiny_checkpoint)


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (3, 5), (1, 7), (8, 2)])
@pytest.mark.parametrize("edit", [False, True])
@torch.no_grad()
def test_it_equals_the_transformer(checkpoint: Checkpoint, rows: int, columns: int, edit: bool) -> None:
    whole = checkpoint.load_transformer()
    modulation, denoiser = split(checkpoint.load_transformer())
    config, patch = whole.config, whole.config.patch_size
    latents = _random(2, config.in_channels, rows * patch, columns * patch)
    reference = _random(*latents.shape, seed=1)
    context = _random(2, 9, config.joint_attention_dim, seed=2)
    pooled, times = _random(2, config.pooled_projection_dim, seed=3), torch.tensor([812.0, 7.5])
    expected = [whole(latents, context, pooled, time.expand(2), reference if edit else None).sample for time in times]

    table = checkpoint.position_table()
    top, left = (len(table) - rows) // 2, (len(table) - columns) // 2
    positions = table[top : top + rows, left : left + columns].flatten(0, 1)
    patches = _patches(latents, patch)
    if edit:
        patches, positions = torch.cat([_patches(reference, patch), patches], dim=1), positions.repeat(2, 1)
    steps, embedded = modulation(times, pooled, context)
    for step, velocity in zip(steps, expected, strict=True):
        made = denoiser(patches, positions, embedded, step)[:, -rows * columns :]
        assert _relative(made, _patches(velocity, patch)) < 1e-5


def test_every_weight_goes_into_one_of_the_two_graphs(checkpoint: Checkpoint) -> None:
    count = sum(parameter.numel() for parameter in checkpoint.load_transformer().parameters())
    parts = split(checkpoint.load_transformer())
    assert sum(parameter.numel() for part in parts for parameter in part.parameters()) == count


@torch.no_grad()
def test_the_embedders_stay_in_float32_when_the_rest_is_half(checkpoint: Checkpoint) -> None:
    modulation, _ = split(checkpoint.load_transformer(torch.bfloat16))
    pooled = _random(1, modulation.text_embedder.linear_1.in_features).bfloat16()
    context = _random(1, 3, modulation.context_embedder.in_features).bfloat16()
    steps, embedded = modulation(torch.tensor([500.0, 500.4]), pooled, context)
    assert (steps.dtype, embedded.dtype) == (torch.bfloat16, torch.bfloat16)
    assert modulation.timestep_embedder.linear_1.weight.dtype == torch.float32


def test_diffusers_table_is_separable(checkpoint: Checkpoint) -> None:
    table = checkpoint.position_table()
    tensors = position_tensors(table)
    assert set(tensors) == {"x", "y"}
    rows, columns = 2, 5
    again = torch.cat([tensors["x"][columns], tensors["y"][rows]])
    assert torch.equal(again, table[rows, columns])


def test_any_other_table_is_kept_whole() -> None:
    table = _random(4, 4, 6)
    assert torch.equal(position_tensors(table)["table"], table)


def test_a_table_without_a_buffer_is_diffusers_own(checkpoint: Checkpoint) -> None:
    built = KontextTransformer(**{k: v for k, v in checkpoint.config("transformer").items() if k[0] != "_"})
    size = built.config.pos_embed_max_size
    assert torch.allclose(built.pos_embed.pos_embed.reshape(size, size, -1), checkpoint.position_table(), atol=1e-6)
