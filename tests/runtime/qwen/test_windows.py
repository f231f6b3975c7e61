"""The window plan: every patch once, and the vision tower over rows of windows equals transformers' tower."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from unipic2_edge.runtime.qwen.preprocessing import SeenPicture
from unipic2_edge.runtime.qwen.settings import VisionSettings
from unipic2_edge.runtime.qwen.windows import MASKED, plan_windows, vision_feed

from .conftest import VISION
from .stand_ins import Vision

GRIDS = [(1, 2, 2), (1, 8, 8), (1, 16, 24), (1, 10, 14), (1, 22, 38), (1, 4, 60), (1, 2, 62)]


@pytest.mark.parametrize("grid", GRIDS)
def test_the_windows_give_what_transformers_tower_gives(tiny: Any, grid: tuple[int, int, int]) -> None:
    patches = np.random.default_rng(grid[2]).standard_normal((grid[1] * grid[2], 1176)).astype(np.float32)
    given = Vision(tiny).run(vision_feed(SeenPicture(patches, grid, b""), VISION))["image_embeds"]
    with torch.no_grad():
        theirs = tiny.model.visual(torch.from_numpy(patches), grid_thw=torch.tensor([grid])).pooler_output.numpy()
    assert given.shape == theirs.shape
    np.testing.assert_allclose(given, theirs, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("settings", [VisionSettings(), VISION, VisionSettings(patch_size=8, window_size=32)])
def test_every_patch_stands_in_one_slot(grid: tuple[int, int, int], settings: VisionSettings) -> None:
    plan = plan_windows(grid, settings)
    used = plan.patch_index >= 0
    assert sorted(plan.patch_index[used].tolist()) == list(range(grid[1] * grid[2]))
    assert ((plan.key_bias == MASKED) == ~used).all()
    assert (plan.key_bias[used] == 0).all()
    assert used.any(axis=1).all()  # no window is empty: softmax over nothing but masked slots would look at all of them
    tokens = plan.patch_index.reshape(-1, settings.merge_size**2)[plan.restore_index]
    assert (tokens.reshape(-1) == np.arange(grid[1] * grid[2])).all()


def test_sides_of_whole_windows_have_no_empty_slot() -> None:
    assert (plan_windows((1, 16, 24), VisionSettings()).patch_index >= 0).all()


def test_a_plan_is_kept_and_cannot_be_changed() -> None:
    plan = plan_windows((1, 4, 4), VisionSettings())
    assert plan_windows((1, 4, 4), VisionSettings()) is plan
    with pytest.raises(ValueError, match="read-only"):
        plan.rope_cos[0] = 0
