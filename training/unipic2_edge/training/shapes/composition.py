"""Composed pictures: everything stands where its words say it does, as in the picked pictures of quality tuning.

The world's own scenes leave open which of two named objects is the left one, where exactly each stands and how large
it is; a denoiser has to settle all that while it binds shapes and colours to places, and gets the binding wrong. The
last stage of a picture model is commonly a small set of well-composed pictures (Emu, arXiv 2309.15807). These are
ours: objects across the picture in the order of the words, in the middle of their cells, of middle size.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .captions import RELATIONS, TASKS, Caption, Wanted, caption_for, held_out_text
from .edits import Edit, training_edit
from .scene import GRID, LARGE, RADIUS, SMALL, Canvas, Object, Scene, choose, sample_scene

_LAST = GRID - 1
_RADII = {"small": sum(SMALL) / 2, "large": sum(LARGE) / 2, None: sum(RADIUS) / 2}  # pixels at side 128


def composed_picture(rng: np.random.Generator, canvas: Canvas) -> tuple[Scene, Caption]:
    """A caption that training may see, of each task equally often, and a scene that is composed for it."""
    task = choose(rng, TASKS)
    while True:
        scene = sample_scene(rng, canvas)
        caption = caption_for(scene, rng, task)
        if caption is not None and not held_out_text(caption.text):
            return composed(scene, caption), caption


def composed(scene: Scene, caption: Caption) -> Scene:
    """The scene, of which the caption is true, with its objects moved to where the caption's words put them.

    Several objects stand in the order of their words from the left edge to the right one, each in its own row; two
    that stand in a relation are at the two ends of its axis. What the words leave open stays as it is.
    """
    left, placed = list(scene.objects), []
    for position, wanted in enumerate(caption.objects):
        thing = next(thing for thing in left if _fits(thing, wanted))
        left.remove(thing)
        cell = _cell(thing, position, caption)
        placed.append(replace(thing, cell=cell, offset=(0.0, 0.0), radius=_RADII[wanted.size]))
    return scene.with_objects(*placed)


def composed_edit(rng: np.random.Generator, canvas: Canvas) -> Edit:
    """An edit that training may see; what it adds is in the middle of its cell and of middle size."""
    edit = training_edit(rng, canvas)
    if edit.kind != "add":
        return edit
    added = tuple(replace(thing, offset=(0.0, 0.0), radius=_RADII[None]) for thing in edit.added)
    return replace(edit, target=edit.source.with_objects(*edit.source.objects, *added), added=added)


def _fits(thing: Object, wanted: Wanted) -> bool:
    return thing.shape == wanted.shape and wanted.color in (None, thing.color) and wanted.size in (None, thing.size)


def _cell(thing: Object, position: int, caption: Caption) -> tuple[int, int]:
    row, column = thing.cell
    if len(caption.objects) == 1:
        return row, column
    if caption.relation in RELATIONS:
        first = _LAST if caption.relation in ("right of", "below") else 0
        end = first if position == 0 else _LAST - first
        return (end, column) if caption.relation in ("above", "below") else (row, end)
    return row, position * _LAST // (len(caption.objects) - 1)
