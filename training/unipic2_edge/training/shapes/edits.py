"""Edits: an instruction, the picture it starts from and the one it should end in, in six kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .captions import Wanted, held_out_text, holds, phrase
from .scene import (
    BACKGROUNDS,
    COLORS,
    GRID,
    SHAPES,
    Canvas,
    Cell,
    Object,
    Scene,
    choose,
    sample_object,
    sample_scene,
)

KINDS = ("recolor", "add", "remove", "move", "replace", "background")
DIRECTIONS = ("left", "right", "top", "bottom")


@dataclass(frozen=True)
class Edit:
    """An instruction with its source and its ideal result.

    `removed` are the source's objects that the edit touches, `added` the target's; everything else is kept.
    An added object of an `add` edit may stand anywhere in `relation` to `anchor`.
    """

    text: str
    kind: str
    source: Scene
    target: Scene
    removed: tuple[Object, ...] = ()
    added: tuple[Object, ...] = ()
    anchor: Object | None = None
    relation: str | None = None


def name_of(thing: Object, scene: Scene, rng: np.random.Generator) -> str | None:
    """`circle` where that is unambiguous (half the time), else `red circle` where that is, else nothing."""
    if sum(other.shape == thing.shape for other in scene.objects) == 1 and rng.random() < 0.5:
        return thing.shape
    alike = sum((other.shape, other.color) == (thing.shape, thing.color) for other in scene.objects)
    return f"{thing.color} {thing.shape}" if alike == 1 else None


def _pick(scene: Scene, rng: np.random.Generator) -> tuple[Object, str] | None:
    thing = scene.objects[int(rng.integers(len(scene.objects)))]
    name = name_of(thing, scene, rng)
    return (thing, name) if name else None


def _swap(scene: Scene, old: Object, new: Object) -> Scene:
    return scene.with_objects(*(new if thing is old else thing for thing in scene.objects))


def _other(rng: np.random.Generator, options: list[str], not_this: str) -> str:
    return choose(rng, [option for option in options if option != not_this])


def _recolor(scene: Scene, rng: np.random.Generator) -> Edit | None:
    picked = _pick(scene, rng)
    if picked is None:
        return None
    thing, name = picked
    new = replace(thing, color=_other(rng, list(COLORS), thing.color))
    plain = rng.random() < 0.5
    text = f"make the {name} {new.color}" if plain else f"change the color of the {name} to {new.color}"
    return Edit(text, "recolor", scene, _swap(scene, thing, new), (thing,), (new,))


def _add(scene: Scene, rng: np.random.Generator) -> Edit | None:
    picked = _pick(scene, rng)
    if picked is None or len(scene.objects) == GRID:
        return None
    anchor, name = picked
    relation = choose(rng, ["left of", "right of", "above", "below"])
    cell = _nearest_free(scene, anchor.cell, relation)
    if cell is None:
        return None
    new = sample_object(rng, cell)
    text = f"add {phrase(Wanted(new.shape, new.color))} {relation} the {name}"
    target = scene.with_objects(*scene.objects, new)
    return Edit(text, "add", scene, target, (), (new,), anchor, relation)


def _nearest_free(scene: Scene, cell: Cell, relation: str) -> Cell | None:
    """The free cell in the same row or column that stands nearest in `relation` to `cell`."""
    row, column = cell
    line = [
        free
        for free in scene.free_cells()
        if holds(relation, (free[1], free[0]), (column, row), (1.0, 1.0)) and (free[0] == row or free[1] == column)
    ]
    return min(line, key=lambda free: abs(free[0] - row) + abs(free[1] - column), default=None)


def _remove(scene: Scene, rng: np.random.Generator) -> Edit | None:
    picked = _pick(scene, rng)
    if picked is None or len(scene.objects) == 1:
        return None
    thing, name = picked
    target = scene.with_objects(*(other for other in scene.objects if other is not thing))
    return Edit(f"remove the {name}", "remove", scene, target, (thing,))


def _move(scene: Scene, rng: np.random.Generator) -> Edit | None:
    picked = _pick(scene, rng)
    if picked is None:
        return None
    thing, name = picked
    direction = choose(rng, DIRECTIONS)
    row, column = thing.cell
    last = GRID - 1
    cell = {"left": (row, 0), "right": (row, last), "top": (0, column), "bottom": (last, column)}[direction]
    if cell not in scene.free_cells():
        return None
    new = replace(thing, cell=cell)
    return Edit(f"move the {name} to the {direction}", "move", scene, _swap(scene, thing, new), (thing,), (new,))


def _replace(scene: Scene, rng: np.random.Generator) -> Edit | None:
    picked = _pick(scene, rng)
    if picked is None:
        return None
    thing, name = picked
    new = replace(thing, shape=_other(rng, list(SHAPES), thing.shape))
    if rng.random() < 0.5:
        new = replace(new, color=choose(rng, tuple(COLORS)))
        wanted = phrase(Wanted(new.shape, new.color))
    else:
        wanted = phrase(Wanted(new.shape))
    text = f"replace the {name} with {wanted}"
    return Edit(text, "replace", scene, _swap(scene, thing, new), (thing,), (new,))


def _background(scene: Scene, rng: np.random.Generator) -> Edit:
    background = _other(rng, list(BACKGROUNDS), scene.background)
    return Edit(f"change the background to {background}", "background", scene, replace(scene, background=background))


_MAKERS: dict[str, Callable[[Scene, np.random.Generator], Edit | None]] = dict(
    zip(KINDS, (_recolor, _add, _remove, _move, _replace, _background), strict=True)
)


def sample_edit(rng: np.random.Generator, canvas: Canvas, kind: str | None = None) -> Edit:
    """A random edit of a random scene; neither side shows a held-out combination."""
    while True:
        edit = _MAKERS[kind or choose(rng, KINDS)](sample_scene(rng, canvas), rng)
        if edit is not None and not edit.target.held_out:
            return edit


def training_edit(rng: np.random.Generator, canvas: Canvas) -> Edit:
    """An edit whose instruction training may see. (Of the three background edits none is held out.)"""
    while True:
        edit = sample_edit(rng, canvas)
        if edit.kind == "background" or not held_out_text(edit.text):
            return edit


def evaluation_edits(count: int, canvas: Canvas, seed: int) -> list[Edit]:
    """`count` edits, the six kinds in turn, with instructions that training never samples.

    There are three background instructions in all; for that kind only the pictures are new.
    """
    rng = np.random.default_rng([seed, 2])
    edits: list[Edit] = []
    while len(edits) < count:
        edit = sample_edit(rng, canvas, KINDS[len(edits) % len(KINDS)])
        if edit.kind == "background" or held_out_text(edit.text):
            edits.append(edit)
    return edits
