"""Composed pictures: right by the verifier, laid out as the words are, and never of a held-out text."""

from __future__ import annotations

import numpy as np
import pytest

from unipic2_edge.training.shapes.captions import TASKS, Caption, Wanted, held_out_text
from unipic2_edge.training.shapes.composition import composed, composed_edit, composed_picture
from unipic2_edge.training.shapes.render import render
from unipic2_edge.training.shapes.scene import Canvas, Object, Scene
from unipic2_edge.training.shapes.verifier import judge_edit, judge_generation

CANVAS = Canvas(64, 64)
CROSS = Object("cross", "red", (1, 1), (1.5, -1.0), 12.0)
RING = Object("ring", "blue", (2, 0), (0.5, 0.5), 16.0)
WORDS = (Wanted("ring"), Wanted("cross"))


def _cells(caption: Caption) -> dict[str, tuple[int, int]]:
    scene = composed(Scene(CANVAS, "gray", (CROSS, RING)), caption)
    return {thing.shape: thing.cell for thing in scene.objects}


def test_every_composed_picture_is_right_for_its_caption_and_no_text_is_held_out() -> None:
    rng = np.random.default_rng(0)
    tasks = dict.fromkeys(TASKS, 0)
    for _ in range(240):
        scene, caption = composed_picture(rng, CANVAS)
        assert judge_generation(render(scene), caption).right
        assert not held_out_text(caption.text)
        assert all(thing.offset == (0.0, 0.0) for thing in scene.objects)
        tasks[caption.task] += 1
    assert min(tasks.values()) > 20  # equally often: 40 each


def test_objects_that_are_joined_stand_across_the_picture_in_their_own_rows() -> None:
    assert _cells(Caption("a ring and a cross", "two objects", WORDS)) == {"ring": (2, 0), "cross": (1, 2)}


@pytest.mark.parametrize(
    ("relation", "ring", "cross"),
    [
        ("left of", (2, 0), (1, 2)),
        ("right of", (2, 2), (1, 0)),
        ("above", (0, 0), (2, 1)),
        ("below", (2, 0), (0, 1)),
    ],
)
def test_objects_in_a_relation_stand_at_the_ends_of_its_axis(
    relation: str, ring: tuple[int, int], cross: tuple[int, int]
) -> None:
    caption = Caption(f"a ring {relation} a cross", "position", WORDS, relation)
    assert _cells(caption) == {"ring": ring, "cross": cross}


def test_size_is_what_the_words_say_and_else_the_middle() -> None:
    caption = Caption("a large ring", "colors", (Wanted("ring", None, "large"),))
    (ring,) = composed(Scene(CANVAS, "gray", (RING,)), caption).objects
    assert ring.size == "large"
    (plain,) = composed(Scene(CANVAS, "gray", (RING,)), Caption("a ring", "single object", (Wanted("ring"),))).objects
    assert plain.size is None
    assert plain.cell == RING.cell


def test_composed_edits_are_right_and_center_what_they_add() -> None:
    rng = np.random.default_rng(1)
    added = 0
    for _ in range(120):
        edit = composed_edit(rng, CANVAS)
        assert judge_edit(render(edit.target), render(edit.source), edit).right
        if edit.kind == "add":
            added += 1
            assert edit.added[0].offset == (0.0, 0.0)
            assert edit.added[0] in edit.target.objects
    assert added > 5
