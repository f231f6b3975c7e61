"""The shapes world: what is drawn, what is said about it, and what must never be shown to training."""

from __future__ import annotations

import numpy as np
import pytest

from unipic2_edge.training.shapes.captions import (
    TASKS,
    caption_for,
    evaluation_captions,
    held_out_text,
    joined,
    phrase,
    reading_order,
    training_caption,
)
from unipic2_edge.training.shapes.edits import KINDS, evaluation_edits, training_edit
from unipic2_edge.training.shapes.render import render
from unipic2_edge.training.shapes.scene import BACKGROUNDS, COLORS, SHAPES, Canvas, Object, Scene, sample_scene

CANVAS = Canvas(64, 64)
_WORDS = {
    *("a", "an", "and", "on", "of", "two", "three", "left", "right", "above", "below", "small", "large", "background"),
    *BACKGROUNDS,
    *COLORS,
    *SHAPES,
    *(shape + ("es" if shape == "cross" else "s") for shape in SHAPES),
}


def test_every_shape_is_drawn_in_its_color_inside_its_radius() -> None:
    for shape in SHAPES:
        thing = Object(shape, "red", (1, 1), (0.0, 0.0), 16.0)
        picture = render(Scene(Canvas(128, 128), "white", (thing,)))
        red = (picture == COLORS["red"]).all(-1)
        rows, columns = np.nonzero(red)
        assert red.sum() > 150
        assert np.hypot(rows + 0.5 - 64, columns + 0.5 - 64).max() < 16 * 1.42
        assert (picture[0] == BACKGROUNDS["white"]).all()


def test_objects_never_touch_the_border_or_each_other() -> None:
    rng = np.random.default_rng(0)
    for canvas in (CANVAS, Canvas(96, 64), Canvas(128, 128)):
        for _ in range(100):
            scene = sample_scene(rng, canvas)
            boxes = [thing.placed(canvas) for thing in scene.objects]
            for x, y, r in boxes:
                assert r < x < canvas.width - r
                assert r < y < canvas.height - r
            for i, (x, y, r) in enumerate(boxes):
                for other_x, other_y, other_r in boxes[:i]:
                    assert max(abs(x - other_x), abs(y - other_y)) > r + other_r


def test_training_never_sees_held_out_texts_or_combinations() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        scene = sample_scene(rng, CANVAS)
        assert not scene.held_out
        caption = training_caption(scene, rng)
        assert caption is None or not held_out_text(caption.text)
        edit = training_edit(rng, CANVAS)
        assert not edit.target.held_out
        assert edit.kind == "background" or not held_out_text(edit.text)


def test_training_captions_name_objects_in_reading_order() -> None:
    rng = np.random.default_rng(3)
    ordered = 0
    for _ in range(300):
        scene = sample_scene(rng, CANVAS)
        caption = training_caption(scene, rng)
        if caption is None or caption.task not in ("two objects", "color attribution"):
            continue
        ordered += 1
        assert [wanted.shape for wanted in caption.objects] == [thing.shape for thing in reading_order(scene)]
        assert caption.text.startswith(joined([phrase(wanted) for wanted in caption.objects]))
        assert (caption.background is None) == ("background" not in caption.text)
    assert ordered > 100


def test_evaluation_sets_are_held_out_balanced_and_repeatable() -> None:
    captions = evaluation_captions(60, CANVAS, seed=0)
    assert all(held_out_text(caption.text) for caption in captions)
    assert [caption.task for caption in captions] == list(TASKS) * 10
    assert captions == evaluation_captions(60, CANVAS, seed=0)
    edits = evaluation_edits(60, CANVAS, seed=0)
    assert [edit.kind for edit in edits] == list(KINDS) * 10
    assert all(edit.kind == "background" or held_out_text(edit.text) for edit in edits)


def test_combination_captions_all_name_a_held_out_combination() -> None:
    for caption in evaluation_captions(30, CANVAS, seed=0, combinations=True):
        assert "purple triangle" in caption.text or "cyan ring" in caption.text


@pytest.mark.parametrize("task", TASKS)
def test_captions_of_every_task_are_in_the_grammar(task: str) -> None:
    rng = np.random.default_rng(2)
    words = set()
    made = 0
    while made < 40:
        caption = caption_for(sample_scene(rng, CANVAS), rng, task)
        if caption is None:
            continue
        made += 1
        assert caption.task == task
        words |= set(caption.text.replace(",", "").split())
        assert len(caption.objects) <= 3
    assert words <= _WORDS


def test_edits_change_what_they_say_and_keep_the_rest() -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        edit = training_edit(rng, CANVAS)
        kept = [thing for thing in edit.source.objects if thing not in edit.removed]
        assert set(edit.target.objects) == {*kept, *edit.added}
        assert len({thing.cell for thing in edit.target.objects}) == len(edit.target.objects)
        assert (edit.source.background != edit.target.background) == (edit.kind == "background")
