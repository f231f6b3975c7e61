"""What the vision-language stage is taught in one micro-batch: pictures with questions, instructions, or captions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..recipe import Recipe
from ..shapes.captions import training_caption
from ..shapes.edits import Edit, training_edit
from ..shapes.questions import KINDS, ask, description, held_out_scene, training_scene
from ..shapes.render import Picture, render
from ..shapes.scene import Canvas, Scene

GENERATION_PROMPT = "Generate an image: {}"
Turn = tuple[str, str]  # what the user says, what is answered


@dataclass(frozen=True)
class Lesson:
    """Conversations of one kind; the pictures are of one size, or there are none.

    `editing`: pictures at the editing size, sequential positions. `system`: the default system prompt comes first.
    """

    conversations: list[list[Turn]]
    scenes: list[Scene]
    pictures: list[Picture]
    editing: bool
    system: bool


def draw_lessons(rng: np.random.Generator, recipe: Recipe, canvases: list[Canvas]) -> Lesson:
    """A micro-batch's lesson, by the shares of `recipe.talk`."""
    talk, count = recipe.talk, recipe.batch_size
    weights = np.asarray(recipe.data.size_weights)
    canvas = canvases[int(rng.choice(len(canvases), p=weights / weights.sum()))]
    drawn = rng.random()
    if drawn < talk.caption_share:
        captions = [_caption(rng, canvas) for _ in range(count)]
        return Lesson([[(GENERATION_PROMPT.format(text), text)] for text in captions], [], [], True, False)
    if drawn < talk.caption_share + talk.instruction_share:
        edits = [_edit(rng, canvas) for _ in range(count)]
        told = [[(edit.text, description(edit.target))] for edit in edits]
        return _seen(told, [edit.source for edit in edits], True, False)
    scenes = [training_scene(rng, canvas) for _ in range(count)]
    editing = bool(rng.random() < talk.small_share)
    system = not editing and bool(rng.random() < talk.system_share)
    return _seen([questions(rng, scene, talk.questions) for scene in scenes], scenes, editing, system)


def questions(rng: np.random.Generator, scene: Scene, count: int) -> list[Turn]:
    """`count` different questions about a scene, no more than it has kinds for."""
    turns: dict[str, str] = {}
    for kind in rng.permutation(KINDS):
        question = ask(scene, rng, str(kind)) if len(turns) < count else None
        if question is not None:
            turns[question.text] = question.answer
    return list(turns.items())


def _seen(conversations: list[list[Turn]], scenes: list[Scene], editing: bool, system: bool) -> Lesson:
    return Lesson(conversations, scenes, [render(scene) for scene in scenes], editing, system)


def _caption(rng: np.random.Generator, canvas: Canvas) -> str:
    while (caption := training_caption(training_scene(rng, canvas), rng)) is None:
        pass
    return caption.text


def _edit(rng: np.random.Generator, canvas: Canvas) -> Edit:
    """An edit with neither its instruction, nor what it starts from, nor what it ends in held out."""
    while held_out_scene((edit := training_edit(rng, canvas)).source) or held_out_scene(edit.target):
        pass
    return edit
