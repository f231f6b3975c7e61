"""Rope indices equal transformers' get_rope_index; tables and bias equal what its layers use."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from unipic2_edge.runtime.qwen.positions import causal_bias, picture_starts, rope_index, rope_tables
from unipic2_edge.runtime.qwen.windows import MASKED

from .conftest import IMAGE_PAD, ROPE

Grid = tuple[int, int, int]
WIDE, TALL, ONE = (1, 4, 12), (1, 10, 6), (1, 2, 2)
#: Numbers are words, grids are pictures.
CASES: dict[str, list[int | Grid]] = {
    "text only": [9],
    "one picture": [3, WIDE, 5],
    "two pictures": [2, WIDE, 4, TALL, 3],
    "picture first": [TALL, 6],
    "picture last": [4, WIDE],
    "picture alone": [ONE],
    "three pictures": [1, ONE, 1, TALL, 2, WIDE, 7],
}


def _sequence(parts: list[int | Grid]) -> tuple[np.ndarray, list[Grid]]:
    rng = np.random.default_rng(3)
    pieces = [
        np.full(part[1] * part[2] // 4, IMAGE_PAD) if isinstance(part, tuple) else rng.integers(0, 500, part)
        for part in parts
    ]
    return np.concatenate(pieces).astype(np.int64), [part for part in parts if isinstance(part, tuple)]


@pytest.mark.parametrize("parts", CASES.values(), ids=CASES)
def test_mrope_equals_transformers(tiny: Any, parts: list[int | Grid]) -> None:
    ids, grids = _sequence(parts)
    theirs, delta = tiny.model.get_rope_index(
        torch.from_numpy(ids)[None],
        mm_token_type_ids=torch.from_numpy((ids == IMAGE_PAD).astype(np.int32))[None],
        image_grid_thw=torch.tensor(grids) if grids else None,
    )
    ours = rope_index(ids, grids, IMAGE_PAD, 2, "mrope")
    np.testing.assert_array_equal(ours, theirs[:, 0].numpy())
    assert ours.max() + 1 - len(ids) == int(delta[0])


@pytest.mark.parametrize("parts", CASES.values(), ids=CASES)
def test_sequential_counts_tokens(parts: list[int | Grid]) -> None:
    ids, grids = _sequence(parts)
    np.testing.assert_array_equal(rope_index(ids, grids, IMAGE_PAD, 2, "sequential"), [range(len(ids))] * 3)


def test_a_start_of_a_sequence_has_the_positions_it_has_in_the_whole() -> None:
    ids, grids = _sequence([3, TALL, 4, WIDE, 5])
    whole = rope_index(ids, grids, IMAGE_PAD, 2, "mrope")
    cut = 3 + 15 + 2
    np.testing.assert_array_equal(rope_index(ids[:cut], grids[:1], IMAGE_PAD, 2, "mrope"), whole[:, :cut])


@pytest.mark.parametrize("grids", [[], [WIDE], [WIDE, TALL, TALL], [TALL, WIDE, WIDE], [(1, 40, 40)]])
def test_pads_that_are_not_the_pictures_are_refused(grids: list[Grid]) -> None:
    ids, _ = _sequence([2, WIDE, 4, TALL, 3])
    with pytest.raises(ValueError, match="pads"):
        picture_starts(ids, grids, IMAGE_PAD, 2)


def test_tables_equal_transformers(tiny: Any) -> None:
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_multimodal_rotary_pos_emb, rotate_half

    index = np.random.default_rng(0).integers(0, 3000, (3, 40))
    cos, sin = rope_tables(index, ROPE, batch=2)
    assert cos.shape == (2, 40, 16)
    assert cos.dtype == np.float32
    query = torch.randn(2, 4, 40, 16)
    theirs = tiny.model.language_model.rotary_emb(query, torch.from_numpy(index)[:, None].expand(3, 2, 40))
    wanted, _ = apply_multimodal_rotary_pos_emb(query, query, *theirs, list(ROPE.sections))
    ours = query * torch.from_numpy(cos)[:, None] + rotate_half(query) * torch.from_numpy(sin)[:, None]
    torch.testing.assert_close(ours, wanted, atol=2e-6, rtol=0)


def test_the_bias_hides_what_comes_later() -> None:
    bias = causal_bias(3, 2, batch=2)
    assert bias.shape == (2, 1, 3, 5)
    assert bias.dtype == np.float32
    visible = [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    for row in bias[:, 0]:
        np.testing.assert_array_equal(row == 0, visible)
        assert (row[np.array(visible) == 0] == MASKED).all()
    fixed = causal_bias(1, 2, length=6)[0, 0, 0]
    assert (fixed == 0).tolist() == [True, True, True, False, False, False]
    assert np.isfinite(np.float16(MASKED))
