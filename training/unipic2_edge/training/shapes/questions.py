"""Questions about a picture and their answers, in five kinds; right is the exact answer.

A scene belongs to evaluation by the checksum of its description, so that training sees none of its questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .captions import (
    NUMBERS,
    RELATIONS,
    Wanted,
    held_out_text,
    joined,
    phrase,
    plural,
    reading_order,
    relations_between,
)
from .edits import name_of
from .scene import SHAPES, Canvas, Object, Scene, choose, sample_scene
from .scores import Score

KINDS = ("color", "count", "position", "background", "description")
DESCRIBE = "describe the image."
_PRESENT_SHARE = 0.6  # of the counting questions ask for a shape that is there


@dataclass(frozen=True)
class Question:
    """A question about a scene, with the one right answer."""

    text: str
    kind: str
    answer: str
    scene: Scene


def description(scene: Scene, background: bool = True) -> str:
    """A full caption with colours: left to right, then top to bottom; equal objects alone are counted.

    `a red circle and a blue square on a white background`, `two red squares on a black background`.
    """
    wanted = [Wanted(thing.shape, thing.color) for thing in reading_order(scene)]
    if len(wanted) > 1 and len(set(wanted)) == 1:
        text = f"{NUMBERS[len(wanted)]} {wanted[0].color} {plural(wanted[0].shape)}"
    else:
        text = joined([phrase(thing) for thing in wanted])
    return f"{text} on a {scene.background} background" if background else text


def held_out_scene(scene: Scene) -> bool:
    """Whether a scene is for evaluation alone: an eighth of what a picture can show, or a held-out combination."""
    return scene.held_out or held_out_text(description(scene, background=False))


def training_scene(rng: np.random.Generator, canvas: Canvas) -> Scene:
    """A random scene that training may see."""
    while held_out_scene(scene := sample_scene(rng, canvas)):
        pass
    return scene


def ask(scene: Scene, rng: np.random.Generator, kind: str | None = None) -> Question | None:
    """A question about the scene, of the given kind or a random one; none if that kind does not fit."""
    kind = kind or choose(rng, KINDS)
    made = _MAKERS[kind](scene, rng)
    return Question(made[0], kind, made[1], scene) if made else None


def evaluation_questions(count: int, canvas: Canvas, seed: int, combinations: bool = False) -> list[Question]:
    """`count` questions, the kinds in turn, about scenes that training never shows.

    With `combinations` every scene shows a held-out colour-shape combination; without, none does.
    """
    rng = np.random.default_rng([seed, 3, int(combinations)])
    questions: list[Question] = []
    while len(questions) < count:
        scene = sample_scene(rng, canvas, held_out=combinations)
        question = ask(scene, rng, KINDS[len(questions) % len(KINDS)]) if held_out_scene(scene) else None
        if question is not None:
            questions.append(question)
    return questions


def score_answers(questions: Sequence[Question], answers: Sequence[str]) -> Score:
    """Exact answers by kind; only the white space around an answer is free.

    Raises:
        ValueError: not one answer for each question.
    """
    right, total = Counter[str](), Counter[str]()
    for question, answer in zip(questions, answers, strict=True):
        total[question.kind] += 1
        right[question.kind] += answer.strip() == question.answer
    return Score({kind: right[kind] for kind in total}, dict(total))


def _color(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    single = [thing for thing in scene.objects if _alone(thing, scene)]
    if not single:
        return None
    thing = single[int(rng.integers(len(single)))]
    return f"what color is the {thing.shape}?", thing.color


def _count(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    present = [thing.shape for thing in scene.objects]
    shape = choose(rng, present if rng.random() < _PRESENT_SHARE else list(SHAPES))
    return f"how many {plural(shape)} are there?", NUMBERS[present.count(shape)]


def _position(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    """A relation in which exactly one other object stands to one that has a name."""
    if len(scene.objects) < 2:
        return None
    anchor = scene.objects[int(rng.integers(len(scene.objects)))]
    name = name_of(anchor, scene, rng)
    others = [thing for thing in scene.objects if thing is not anchor]
    found = {relation: [o for o in others if relation in relations_between(o, anchor)] for relation in RELATIONS}
    fitting = [relation for relation in RELATIONS if len(found[relation]) == 1]
    if name is None or not fitting:
        return None
    relation = choose(rng, fitting)
    return f"what shape is {relation} the {name}?", found[relation][0].shape


def _background(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    return "what is the background color?", scene.background


def _description(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    return DESCRIBE, description(scene)


def _alone(thing: Object, scene: Scene) -> bool:
    return sum(other.shape == thing.shape for other in scene.objects) == 1


_MAKERS: dict[str, Callable[[Scene, np.random.Generator], tuple[str, str] | None]] = dict(
    zip(KINDS, (_color, _count, _position, _background, _description), strict=True)
)
