"""Partial credit: exactly 1 where the verifier says right, less and less the further a picture is from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from unipic2_edge.training.errors import RecipeError
from unipic2_edge.training.rewards.reward import Asked, Picture
from unipic2_edge.training.rewards.shapes import ShapesReward
from unipic2_edge.training.shapes.captions import TASKS, Caption, Wanted, caption_for
from unipic2_edge.training.shapes.credit import WRONG_AT_MOST, credit_edit, credit_generation
from unipic2_edge.training.shapes.edits import KINDS, sample_edit
from unipic2_edge.training.shapes.render import render
from unipic2_edge.training.shapes.scene import Canvas, Object, Scene, sample_scene
from unipic2_edge.training.shapes.verifier import judge_edit, judge_generation

CANVAS = Canvas(64, 64)
CIRCLE = Object("circle", "red", (0, 0), (0, 0), 14)
SQUARE = Object("square", "blue", (0, 2), (0, 0), 14)
CAPTION = Caption(
    "a red circle left of a blue square on a white background",
    "position",
    (Wanted("circle", "red"), Wanted("square", "blue")),
    "left of",
    "white",
)


def _scene(*objects: Object, background: str = "white") -> Picture:
    return render(Scene(CANVAS, background, objects))


def _noisy(picture: Picture, deviation: float) -> Picture:
    noise = np.random.default_rng(0).normal(0, deviation, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("task", TASKS)
def test_it_is_one_exactly_where_the_verifier_says_right_in_generation(task: str) -> None:
    rng = np.random.default_rng(TASKS.index(task))
    seen = set()
    for _ in range(12):
        scene = sample_scene(rng, CANVAS)
        caption = caption_for(scene, rng, task)
        if caption is None:
            continue
        for picture in (render(scene), render(sample_scene(rng, CANVAS)), _noisy(render(scene), 20)):
            value = credit_generation(picture, caption).value
            right = judge_generation(picture, caption).right
            assert (value == 1.0) == right
            assert right or value <= WRONG_AT_MOST
            seen.add(right)
    assert seen == {True, False}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_one_exactly_where_the_verifier_says_right_in_editing(kind: str) -> None:
    rng = np.random.default_rng(KINDS.index(kind))
    for _ in range(6):
        edit = sample_edit(rng, CANVAS, kind)
        source, target = render(edit.source), render(edit.target)
        for picture in (target, source, _noisy(target, 20), render(sample_scene(rng, CANVAS))):
            value = credit_edit(picture, source, edit).value
            assert (value == 1.0) == judge_edit(picture, source, edit).right
        done, undone = credit_edit(target, source, edit), credit_edit(source, source, edit)
        assert done.value == 1.0
        assert undone.value <= WRONG_AT_MOST * 0.95


def test_the_further_away_the_less() -> None:
    pictures = [
        _scene(CIRCLE, SQUARE),
        _scene(replace(SQUARE, cell=(0, 0)), replace(CIRCLE, cell=(0, 2))),  # the relation alone is wrong
        _scene(CIRCLE, replace(SQUARE, color="green")),  # a quarter of the objects' credit
        _scene(CIRCLE),
        _scene(),
    ]
    values = [credit_generation(picture, CAPTION).value for picture in pictures]
    assert values[0] == 1.0
    assert values[1] > values[3] > values[4]
    assert values[2] > values[3]
    extra = credit_generation(_scene(CIRCLE, SQUARE, replace(CIRCLE, cell=(2, 2))), CAPTION).value
    assert values[3] < extra < WRONG_AT_MOST
    assert credit_generation(_scene(CIRCLE, SQUARE, background="black"), CAPTION).value < WRONG_AT_MOST


def test_noise_costs_by_degrees() -> None:
    values = [credit_generation(_noisy(_scene(CIRCLE, SQUARE), noise), CAPTION).value for noise in (0, 16, 24, 60)]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 4


def test_what_is_no_shape_at_all_is_rated_all_the_same() -> None:
    rng = np.random.default_rng(0)
    for picture in (rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), np.zeros((64, 64, 3), np.uint8)):
        assert 0 <= credit_generation(picture, CAPTION).value < 0.6


def test_the_reward_goes_by_the_record() -> None:
    edit = sample_edit(np.random.default_rng(1), CANVAS, "recolor")
    asked = [Asked(edit.text, render(edit.source), edit), Asked(CAPTION.text, None, CAPTION)]
    ratings = ShapesReward().rate(asked, [render(edit.target), _scene(CIRCLE, SQUARE)])
    assert [rating.value for rating in ratings] == [1.0, 1.0]
    assert {"objects", "clean", "right"} <= set(ratings[0].parts) & set(ratings[1].parts)
    with pytest.raises(RecipeError, match="cannot rate"):
        ShapesReward().rate([Asked("a dog")], [_scene()])
