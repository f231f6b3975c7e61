"""Packing of latents and the crop of the position table, against diffusers' patch embedding."""

from __future__ import annotations

import numpy as np
import pytest

from unipic2_edge.runtime.bundle import Bundle, Positions
from unipic2_edge.runtime.errors import BundleError, RequestError
from unipic2_edge.runtime.patches import PositionTable, open_positions, patchify, unpatchify

SEPARABLE = Positions(file="p", kind="separable", max_size=6, dim=8)
TABLE = Positions(file="p", kind="table", max_size=6, dim=8)


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 4), (4, 12)])
def test_packing_is_undone(patch: int, height: int, width: int) -> None:
    latents = np.arange(2 * 3 * height * width, dtype=np.float32).reshape(2, 3, height, width)
    patches = patchify(latents, patch)
    assert patches.shape == (2, height * width // patch**2, 3 * patch**2)
    assert patches.flags.c_contiguous
    np.testing.assert_array_equal(unpatchify(patches, patch, height, width), latents)


def test_a_patch_has_the_convolutions_order() -> None:
    latents = np.random.default_rng(0).standard_normal((1, 3, 4, 6), dtype=np.float32)
    # Patch (row 1, column 2) is the block of rows 2–3, columns 4–5, flattened as (c, p, q).
    np.testing.assert_array_equal(patchify(latents, 2)[0, 1 * 3 + 2], latents[0, :, 2:4, 4:6].reshape(-1))


def test_patches_through_a_linear_are_the_patch_embedding() -> None:
    torch, embeddings = pytest.importorskip("torch"), pytest.importorskip("diffusers.models.embeddings")
    embed = embeddings.PatchEmbed(height=12, width=12, patch_size=2, in_channels=3, embed_dim=8, pos_embed_max_size=6)
    latents = np.random.default_rng(0).standard_normal((2, 3, 4, 10), dtype=np.float32)
    table = embed.pos_embed.numpy().reshape(6, 6, 8)
    weight = embed.proj.weight.detach().numpy().reshape(8, -1)
    ours = patchify(latents, 2) @ weight.T + embed.proj.bias.detach().numpy()
    ours = ours + PositionTable({"table": table}, TABLE).crop(2, 5)
    np.testing.assert_allclose(ours, embed(torch.from_numpy(latents)).detach().numpy(), atol=1e-5)


def test_a_separable_table_is_the_full_one() -> None:
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    embed = embeddings.PatchEmbed(height=12, width=12, patch_size=2, in_channels=3, embed_dim=8, pos_embed_max_size=6)
    table = embed.pos_embed.numpy().reshape(6, 6, 8)
    halves = {"x": table[0, :, :4].copy(), "y": table[:, 0, 4:].copy()}
    for rows, columns in ((6, 6), (1, 1), (2, 5), (3, 4)):
        whole = PositionTable({"table": table}, TABLE).crop(rows, columns)
        assert whole.shape == (rows * columns, 8)
        np.testing.assert_array_equal(PositionTable(halves, SEPARABLE).crop(rows, columns), whole)
        np.testing.assert_array_equal(whole, embed.cropped_pos_embed(rows * 2, columns * 2)[0].numpy())


def test_more_patches_than_positions_are_refused(bundle: Bundle) -> None:
    table = open_positions(bundle)
    assert table.crop(6, 6).shape == (36, 8)
    for rows, columns in ((7, 1), (1, 7)):
        with pytest.raises(RequestError, match="the model knows 6 a side"):
            table.crop(rows, columns)


def test_another_table_than_described_is_refused() -> None:
    tables = {"x": np.zeros((6, 4), np.float32), "y": np.zeros((6, 3), np.float32)}
    with pytest.raises(BundleError, match="does not hold"):
        PositionTable(tables, SEPARABLE)
    with pytest.raises(BundleError, match="does not hold"):
        PositionTable({"table": np.zeros((6, 6, 4), np.float32)}, TABLE)
