"""Seeing, positions and answering, each against transformers' own way on a tiny random Qwen2.5-VL."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from unipic2_edge.training.metaquery.checkpoint import MetaqueryCheckpoint
from unipic2_edge.training.qwen.batched_vision import is_one_window, picture_tokens
from unipic2_edge.training.qwen.model import embed, states
from unipic2_edge.training.qwen.sight import editing_pixels, positions
from unipic2_edge.training.qwen.understanding import answer
from unipic2_edge.training.shapes.questions import evaluation_questions
from unipic2_edge.training.shapes.render import Picture, render
from unipic2_edge.training.shapes.scene import Canvas


@pytest.fixture(scope="module")
def model(tiny_metaquery: MetaqueryCheckpoint) -> Any:
    return tiny_metaquery.load_qwen()


def _noise(height: int, width: int) -> Picture:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("height", range(32, 2049, 288))
@pytest.mark.parametrize("width", [32, 64, 416, 1024])
def test_editing_makes_one_token_of_32_by_32_pixels(height: int, width: int) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    exact = editing_pixels(height, width)
    down, across = smart_resize(height, width, 28, exact, exact)
    assert (down // 28, across // 28) == (height // 32, width // 32)


@pytest.mark.parametrize(("size", "grid", "small"), [((64, 64), (8, 8), (4, 4)), ((64, 96), (8, 10), (4, 6))])
def test_small_pictures_are_enlarged_to_answer_and_not_to_edit(
    size: tuple[int, int], grid: tuple[int, int], small: tuple[int, int], tiny_metaquery: MetaqueryCheckpoint
) -> None:
    sight = tiny_metaquery.sight()
    patches, made = sight.patches([_noise(*size)] * 2)
    assert (made, patches.shape) == (grid, (2 * grid[0] * grid[1], 1176))
    assert sight.patches([_noise(*size)], editing=True)[1] == small
    assert sight.tokens(grid) == grid[0] * grid[1] // 4
    theirs = Qwen2VLImageProcessorPil.from_pretrained(tiny_metaquery.folder / "qwen2_5_vl")
    expected = theirs(images=[_noise(*size)], return_tensors="pt")["pixel_values"]
    assert torch.equal(sight.patches([_noise(*size)])[0], expected)


@pytest.mark.parametrize("grid", [(8, 8), (4, 4), (4, 6), (2, 8)])
def test_pictures_at_once_are_as_one_by_one(grid: tuple[int, int], model: Any) -> None:
    visual = model.model.visual
    patches = torch.randn(3 * grid[0] * grid[1], 1176, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = torch.cat(model.model.get_image_features(patches, torch.tensor([[1, *grid]] * 3)).pooler_output)
        ours = picture_tokens(visual, patches, grid)
    assert is_one_window(visual, grid)
    assert not is_one_window(visual, (8, 10))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("grid", [(8, 8), (8, 10), (10, 4)])
def test_rope_positions_are_transformers(grid: tuple[int, int], model: Any) -> None:
    tokens = grid[0] * grid[1] // 4
    ids = torch.tensor([[1, 2, 3, *[model.config.image_token_id] * tokens, 4, 5, 6, 7]])
    kinds = (ids == model.config.image_token_id).int()
    theirs, _ = model.model.get_rope_index(ids, kinds, image_grid_thw=torch.tensor([[1, *grid]]))
    assert torch.equal(positions(ids.shape[1], 3, grid), theirs[:, 0])


def test_without_a_grid_positions_count() -> None:
    assert positions(5, 2).tolist() == [[0, 1, 2, 3, 4]] * 3


@pytest.mark.parametrize("size", [(64, 64), (96, 64)])
def test_answers_are_those_of_generate(size: tuple[int, int], model: Any, tiny_metaquery: MetaqueryCheckpoint) -> None:
    chat, sight = tiny_metaquery.chat(), tiny_metaquery.sight()
    questions = evaluation_questions(6, Canvas(*size), seed=4)
    asked = [(question.text, render(question.scene)) for question in questions]
    ours = answer(model, chat, sight, asked, limit=8)
    for (text, picture), said in zip(asked, ours, strict=True):
        patches, grid = sight.patches([picture])
        ids = torch.tensor([chat.prompt(text, sight.tokens(grid), system=True)])
        made = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == chat.image_id).int(),
            pixel_values=patches,
            image_grid_thw=torch.tensor([[1, *grid]]),
            max_new_tokens=8,
        )
        assert said == chat.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
    assert len(set(ours)) > 1


def test_states_are_transformers(model: Any, tiny_metaquery: MetaqueryCheckpoint) -> None:
    chat, sight = tiny_metaquery.chat(), tiny_metaquery.sight()
    patches, grid = sight.patches([_noise(64, 64)])
    ids = torch.tensor([chat.prompt("describe the image.", sight.tokens(grid), system=True)])
    first = int((ids[0] == chat.image_id).int().argmax())
    with torch.no_grad():
        ours = states(model, embed(model, ids, patches, grid), positions(ids.shape[1], first, grid))
        theirs = model.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == chat.image_id).int(),
            pixel_values=patches,
            image_grid_thw=torch.tensor([[1, *grid]]),
        ).last_hidden_state
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
