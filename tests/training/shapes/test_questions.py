"""Questions: every answer is true of its scene, what is held out stays out, and exact is exact."""

from __future__ import annotations

import numpy as np
import pytest

from unipic2_edge.training.shapes.captions import NUMBERS, plural
from unipic2_edge.training.shapes.questions import (
    DESCRIBE,
    KINDS,
    Question,
    ask,
    description,
    evaluation_questions,
    held_out_scene,
    score_answers,
    training_scene,
)
from unipic2_edge.training.shapes.scene import SHAPES, Canvas, Object, Scene

CANVAS = Canvas(64, 64)


def _object(shape: str, color: str, row: int, column: int) -> Object:
    return Object(shape, color, (row, column), (0.0, 0.0), 14.0)


def _scene(*objects: Object, background: str = "white") -> Scene:
    return Scene(CANVAS, background, objects)


SCENE = _scene(_object("ring", "red", 0, 2), _object("square", "blue", 1, 0), _object("square", "green", 2, 0))


def test_a_description_goes_left_to_right_then_top_to_bottom() -> None:
    assert description(SCENE) == "a blue square, a green square and a red ring on a white background"
    assert description(SCENE, background=False) == "a blue square, a green square and a red ring"


def test_equal_objects_are_counted_only_when_there_are_no_others() -> None:
    alike = _scene(_object("cross", "orange", 0, 0), _object("cross", "orange", 1, 1), background="black")
    assert description(alike) == "two orange crosses on a black background"
    mixed = _scene(*alike.objects, _object("ring", "red", 2, 2))
    assert description(mixed, background=False) == "an orange cross, an orange cross and a red ring"
    assert description(_scene(_object("ring", "red", 1, 1))) == "a red ring on a white background"


def _check(question: Question) -> None:
    scene = question.scene
    if question.kind == "color":
        (thing,) = [o for o in scene.objects if f"the {o.shape}?" in question.text]
        assert question.answer == thing.color
    elif question.kind == "count":
        shape = next(shape for shape in SHAPES if f"many {plural(shape)} are" in question.text)
        assert NUMBERS.index(question.answer) == sum(o.shape == shape for o in scene.objects)
    elif question.kind == "background":
        assert question.answer == scene.background
    elif question.kind == "description":
        assert (question.text, question.answer) == (DESCRIBE, description(scene))


def _relation(question: Question) -> tuple[list[Object], list[str]]:
    """By brute force: the objects that the question's anchor may be, and the shapes that stand so to it."""
    words = question.text.removeprefix("what shape is ").removesuffix("?")
    relation, _, name = words.partition(" the ")
    anchors = [o for o in question.scene.objects if name in (o.shape, f"{o.color} {o.shape}")]
    axis, sign = {"left of": (1, -1), "right of": (1, 1), "above": (0, -1), "below": (0, 1)}[relation]
    others = [o for o in question.scene.objects if o is not anchors[0]]
    return anchors, [o.shape for o in others if sign * (o.cell[axis] - anchors[0].cell[axis]) > 0]


@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_is_true(kind: str) -> None:
    rng = np.random.default_rng(3)
    made = [question for _ in range(400) if (question := ask(training_scene(rng, CANVAS), rng, kind))]
    assert len(made) > 150
    for question in made:
        _check(question)
        if kind == "position":
            anchors, shapes = _relation(question)
            assert len(anchors) == 1
            assert shapes == [question.answer]
    assert len({question.answer for question in made}) >= 3


def test_no_question_where_the_name_is_not_clear() -> None:
    rng = np.random.default_rng(0)
    twins = _scene(_object("ring", "red", 0, 0), _object("ring", "red", 0, 1))
    assert all(ask(twins, rng, kind) is None for kind in ("color", "position") for _ in range(20))


def test_training_and_evaluation_share_no_scene() -> None:
    rng = np.random.default_rng(5)
    trained = {description(training_scene(rng, CANVAS), background=False) for _ in range(3000)}
    for combinations in (False, True):
        questions = evaluation_questions(200, CANVAS, seed=1, combinations=combinations)
        assert [question.kind for question in questions] == list(KINDS) * 40
        assert all(held_out_scene(question.scene) for question in questions)
        assert all(question.scene.held_out == combinations for question in questions)
        assert trained.isdisjoint(description(question.scene, background=False) for question in questions)


def test_evaluation_is_the_same_for_a_seed() -> None:
    assert evaluation_questions(30, CANVAS, seed=2) == evaluation_questions(30, CANVAS, seed=2)
    assert evaluation_questions(30, CANVAS, seed=2) != evaluation_questions(30, CANVAS, seed=3)


def test_answers_are_right_only_if_they_are_exact() -> None:
    questions = [Question("", "color", "red", SCENE), Question("", "color", "blue", SCENE)]
    questions += [Question("", "count", "two", SCENE)]
    score = score_answers(questions, [" red\n", "Blue", "two squares"])
    assert (score.right, score.total) == ({"color": 1, "count": 0}, {"color": 2, "count": 1})
    assert score.mean == 0.25
    with pytest.raises(ValueError, match="zip"):
        score_answers(questions, ["red"])
