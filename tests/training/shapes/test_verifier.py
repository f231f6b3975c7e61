"""The verifier accepts what is right and, above all, refuses what is nearly right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from unipic2_edge.training.shapes.captions import Caption, Wanted, caption_for
from unipic2_edge.training.shapes.edits import KINDS, Edit, sample_edit
from unipic2_edge.training.shapes.render import Picture, render
from unipic2_edge.training.shapes.scene import COLORS, SHAPES, Canvas, Object, Scene, sample_scene
from unipic2_edge.training.shapes.verifier import judge_edit, judge_generation, read, scene_reads_back

CANVASES = (Canvas(64, 64), Canvas(96, 64), Canvas(128, 128))
CIRCLE = Object("circle", "red", (1, 0), (0.0, 0.0), 14.0)
SQUARE = Object("square", "blue", (1, 2), (0.0, 0.0), 14.0)
SCENE = Scene(Canvas(64, 64), "white", (CIRCLE, SQUARE))
CAPTION = Caption(
    "a red circle left of a blue square on a white background",
    "position",
    (Wanted("circle", "red"), Wanted("square", "blue")),
    "left of",
    "white",
)


@pytest.mark.parametrize("canvas", CANVASES, ids=str)
def test_accepts_what_is_drawn(canvas: Canvas) -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        scene = sample_scene(rng, canvas)
        picture = render(scene)
        assert scene_reads_back(scene, picture).right
        caption = caption_for(scene, rng)
        assert caption is None or judge_generation(picture, caption).right


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("canvas", CANVASES, ids=str)
def test_accepts_ideal_edits_and_refuses_doing_nothing(kind: str, canvas: Canvas) -> None:
    rng = np.random.default_rng(1)
    for _ in range(8):
        edit = sample_edit(rng, canvas, kind)
        source = render(edit.source)
        assert judge_edit(render(edit.target), source, edit).right
        assert not judge_edit(source, source, edit).right


NEARLY = {
    "one colour off": SCENE.with_objects(replace(CIRCLE, color="orange"), SQUARE),
    "one shape off": SCENE.with_objects(replace(CIRCLE, shape="ring"), SQUARE),
    "colours swapped": SCENE.with_objects(replace(CIRCLE, color="blue"), replace(SQUARE, color="red")),
    "one object too many": SCENE.with_objects(CIRCLE, SQUARE, replace(CIRCLE, cell=(0, 0))),
    "one object missing": SCENE.with_objects(CIRCLE),
    "sides swapped": SCENE.with_objects(replace(CIRCLE, cell=(1, 2)), replace(SQUARE, cell=(1, 0))),
    "one above the other": SCENE.with_objects(replace(CIRCLE, cell=(0, 1)), replace(SQUARE, cell=(2, 1))),
    "another background": replace(SCENE, background="gray"),
    "an object far too small": SCENE.with_objects(replace(CIRCLE, radius=7.5), SQUARE),
    "an object far too large": SCENE.with_objects(replace(CIRCLE, radius=20.0), SQUARE),
}


@pytest.mark.parametrize("scene", NEARLY.values(), ids=NEARLY)
def test_refuses_nearly_right_scenes(scene: Scene) -> None:
    assert judge_generation(render(SCENE), CAPTION).right
    verdict = judge_generation(render(scene), CAPTION)
    assert not verdict.right
    assert verdict.reason


def _noisy(picture: Picture) -> Picture:
    noise = np.random.default_rng(0).normal(0, 15, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def _blurred(picture: Picture) -> Picture:
    return ndimage.gaussian_filter(picture, (2, 2, 0))


def _with_debris(picture: Picture) -> Picture:
    damaged = picture.copy()
    damaged[4:7, 40:43] = 0
    return damaged


def _half_erased(picture: Picture) -> Picture:
    damaged = picture.copy()
    damaged[32:, :22] = 245
    return damaged


def _faded(picture: Picture) -> Picture:
    return (picture * 0.3 + 245 * 0.7).astype(np.uint8)


@pytest.mark.parametrize("damage", [_noisy, _blurred, _with_debris, _half_erased, _faded])
def test_refuses_damaged_pictures(damage: object) -> None:
    assert callable(damage)
    assert not judge_generation(damage(render(SCENE)), CAPTION).right


@pytest.mark.parametrize("shape", SHAPES)
def test_tells_small_from_large(shape: str) -> None:
    for size, radius, other in (("small", 12.0, "large"), ("large", 16.0, "small")):
        picture = render(Scene(Canvas(64, 64), "black", (Object(shape, "yellow", (0, 1), (0.0, 0.0), radius),)))
        assert judge_generation(picture, Caption("", "colors", (Wanted(shape, "yellow", size),))).right
        assert not judge_generation(picture, Caption("", "colors", (Wanted(shape, "yellow", other),))).right


def test_reads_place_size_shape_and_color() -> None:
    for color in COLORS:
        for shape in SHAPES:
            thing = Object(shape, color, (2, 0), (1.5, -1.0), 13.0)
            canvas = Canvas(128, 96)
            reading = read(render(Scene(canvas, "gray", (thing,))))
            assert reading.fault is None
            (seen,) = reading.objects
            x, y, radius = thing.placed(canvas)
            assert (seen.shape, seen.color) == (shape, color)
            assert abs(seen.x - x) < 1
            assert abs(seen.y - y) < 1
            assert abs(seen.radius - radius) < 1


def _edit(**changes: object) -> Edit:
    blue = replace(CIRCLE, color="green")
    return Edit("make the circle green", "recolor", SCENE, SCENE.with_objects(blue, SQUARE), (CIRCLE,), (blue,))


@pytest.mark.parametrize(
    "result",
    [
        SCENE.with_objects(replace(CIRCLE, color="green"), replace(SQUARE, color="cyan")),
        SCENE.with_objects(replace(CIRCLE, color="green"), replace(SQUARE, offset=(2.0, 2.0), radius=11.5)),
        SCENE.with_objects(replace(CIRCLE, color="green", cell=(2, 0)), SQUARE),
        SCENE.with_objects(replace(CIRCLE, color="green")),
        replace(SCENE.with_objects(replace(CIRCLE, color="green"), SQUARE), background="black"),
    ],
    ids=["other object recoloured", "other object changed", "moved too", "other object lost", "background changed"],
)
def test_refuses_edits_that_do_more_than_they_were_told(result: Scene) -> None:
    edit = _edit()
    assert judge_edit(render(edit.target), render(edit.source), edit).right
    assert not judge_edit(render(result), render(edit.source), edit).right


def test_refuses_an_edit_of_another_size() -> None:
    edit = _edit()
    assert not judge_edit(render(edit.target)[:32], render(edit.source), edit).right
