"""Partial credit: how far a picture is on the way to what was asked for, where the verifier says only right or wrong.

What reinforcement learns from: pictures that are all wrong must still differ. Right pictures, and only those, have 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
from scipy import ndimage

from .captions import Caption
from .edits import Edit
from .render import Picture
from .scene import BACKGROUNDS, COLORS, LARGE, SMALL, Canvas
from .verifier import (
    COLOR_DISTANCE,
    FOREGROUND_DISTANCE,
    KEPT_DIFFERENCE,
    MAX_DEBRIS,
    MAX_RESIDUAL,
    MIN_OVERLAP,
    Floats,
    Reading,
    Seen,
    distance,
    draw,
    fitted,
    grid_step,
    judge_edit,
    judge_generation,
    kept_difference,
)

WRONG_AT_MOST = 0.8  # of a picture that is not right, however near
_READ = 5  # the largest components; more are counted, not read
_NEARLY = 0.9  # what is right has full parts, so the verifier need not read what has less
_SECOND = 0.6  # of a shape or colour that another one fits better


@dataclass(frozen=True)
class Credit:
    """What a picture earns, 0…1, and its parts, each 0…1."""

    value: float
    parts: dict[str, float]


@dataclass(frozen=True)
class _Thing:
    """One component: its median colour [3], and every shape where it lies over it best."""

    color: Floats
    fits: dict[str, Seen]

    @property
    def best(self) -> Seen:
        """The shape that lies over it best."""
        return max(self.fits.values(), key=lambda fit: fit.overlap)


@dataclass(frozen=True)
class _View:
    """A picture read without refusing anything."""

    canvas: Canvas
    ground: Floats
    things: tuple[_Thing, ...]
    count: int  # of components that are large enough to be objects
    clean: float  # 1: the reading explains the picture


def credit_generation(picture: Picture, caption: Caption) -> Credit:
    """Objects, relation and background as far as asked, and nothing else; see `credit_edit` for the scale."""
    view = _view(picture)
    wanted = caption.objects
    step = grid_step(view.canvas)

    def pair(index: int, thing: _Thing) -> float:
        want = wanted[index]
        fit, shape = _shape_credit(thing, want.shape)
        middle = (SMALL[1] + LARGE[0]) / 2 * view.canvas.scale
        sized = want.size is None or (fit.radius < middle) == (want.size == "small")
        return _both(shape, _color_credit(thing.color, want.color)) * (1.0 if sized else _SECOND)

    pairs, order = _matched(len(wanted), view.things, pair)
    parts = {"objects": sum(pairs) / max(len(wanted), view.count), "clean": view.clean}
    weights = {"objects": 0.6, "clean": 0.2}
    if caption.relation is not None:
        parts["relation"], weights["relation"] = _relation_credit(caption.relation, order, view.things, step), 0.2
    if caption.background:
        parts["background"], weights["background"] = _ground_credit(view.ground, caption.background), 0.2
    return _credit(parts, weights, lambda: judge_generation(picture, caption).right)


def credit_edit(picture: Picture, source: Picture, edit: Edit) -> Credit:
    """The target's objects in their places, those that the edit adds three times; the background; what is kept.

    A weighted mean of the parts, times `WRONG_AT_MOST`; exactly 1 where the verifier says right. Each part falls
    from 1 at the verifier's own threshold to 0 some way beyond it.
    """
    view = _view(picture)
    wanted = edit.target.objects
    step = grid_step(view.canvas)
    weight = [3.0 if thing in edit.added else 1.0 for thing in wanted]

    def pair(index: int, thing: _Thing) -> float:
        want = wanted[index]
        fit, shape = _shape_credit(thing, want.shape)
        if want in edit.added and edit.anchor is not None and edit.relation is not None:
            x, y, _ = edit.anchor.placed(view.canvas)
            place = _beside_credit(edit.relation, (fit.x, fit.y), (x, y), step)
        else:
            x, y, _ = want.placed(view.canvas)
            place = _ramp(max(abs(fit.x - x) / step[0], abs(fit.y - y) / step[1]), 0.5, 1.25)
        return weight[index] * place * _both(shape, _color_credit(thing.color, want.color))

    pairs, order = _matched(len(wanted), view.things, pair)
    extra = max(0, view.count - len(wanted))
    parts = {
        "objects": sum(pairs) / (sum(weight) + 2 * extra),
        "background": _ground_credit(view.ground, edit.target.background),
        "kept": _kept_credit(picture, source, edit, view, order),
        "clean": view.clean,
    }
    weights = {"objects": 0.5, "background": 0.4 if edit.kind == "background" else 0.1, "kept": 0.25, "clean": 0.15}
    return _credit(parts, weights, lambda: judge_edit(picture, source, edit).right)


def _credit(parts: dict[str, float], weights: dict[str, float], judge: Callable[[], bool]) -> Credit:
    mean = sum(weights[name] * value for name, value in parts.items()) / sum(weights.values())
    right = mean > _NEARLY and judge()
    return Credit(1.0 if right else WRONG_AT_MOST * mean, parts | {"right": float(right)})


def _ramp(value: float, full: float, none: float) -> float:
    """1 up to (or from) `full`, 0 at `none`, a line between them."""
    return float(np.clip((none - value) / (none - full), 0.0, 1.0))


def _view(picture: Picture) -> _View:
    canvas = Canvas(picture.shape[1], picture.shape[0])
    pixels = picture.astype(np.float32)
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    ground = np.asarray(np.median(border, axis=0), np.float32)
    labels = np.asarray(ndimage.label(distance(pixels, ground) > FOREGROUND_DISTANCE, np.ones((3, 3)))[0])
    areas = np.bincount(labels.ravel())[1:]
    large = areas >= 0.5 * np.pi * (SMALL[0] * canvas.scale) ** 2 * 0.35  # as the verifier tells objects from debris
    windows = ndimage.find_objects(labels)
    things = []
    for index in sorted(np.flatnonzero(large), key=lambda one: -areas[one])[:_READ]:
        color, fits = fitted(pixels, labels == index + 1, windows[index], ground)
        things.append(_Thing(color, {fit.shape: fit for fit in fits}))
    palette = min(BACKGROUNDS, key=lambda name: float(np.linalg.norm(ground - np.asarray(BACKGROUNDS[name]))))
    shown = Reading(canvas, palette, tuple(replace(thing.best, color=_name(thing.color)) for thing in things))
    residual = float(np.abs(pixels - draw(shown)).mean())
    debris = float(areas[~large].sum())
    clean = _ramp(residual, MAX_RESIDUAL, 4 * MAX_RESIDUAL) * _ramp(debris, MAX_DEBRIS, 20 * MAX_DEBRIS)
    return _View(canvas, ground, tuple(things), int(large.sum()), clean)


def _name(color: Floats) -> str:
    return min(COLORS, key=lambda name: float(np.linalg.norm(color - np.asarray(COLORS[name]))))


def _shape_credit(thing: _Thing, shape: str) -> tuple[Seen, float]:
    fit = thing.fits[shape]
    return fit, _ramp(fit.overlap, MIN_OVERLAP, 0.3) * (1.0 if thing.best.shape == shape else _SECOND)


def _both(shape: float, color: float) -> float:
    """One alone is worth a quarter."""
    return (shape + color + 2 * shape * color) / 4


def _color_credit(color: Floats, wanted: str | None) -> float:
    """Of a median colour; any of the seven will do where none is asked for."""
    name = _name(color) if wanted is None else wanted
    away = float(np.linalg.norm(color - np.asarray(COLORS[name])))
    return _ramp(away, COLOR_DISTANCE, 4 * COLOR_DISTANCE) * (1.0 if _name(color) == name else _SECOND)


def _ground_credit(ground: Floats, wanted: str) -> float:
    away = float(np.linalg.norm(ground - np.asarray(BACKGROUNDS[wanted])))
    return _ramp(away, COLOR_DISTANCE, 4 * COLOR_DISTANCE)


def _matched(
    count: int, things: Sequence[_Thing], pair: Callable[[int, _Thing], float]
) -> tuple[list[float], list[int | None]]:
    """The assignment of things to the `count` wanted ones with the largest sum: each one's credit and thing."""
    table = [[pair(index, thing) for thing in things] + [0.0] * count for index in range(count)]
    best = max(
        permutations(range(len(things) + count), count),
        key=lambda order: sum(table[index][slot] for index, slot in enumerate(order)),
    )
    pairs = [table[index][slot] for index, slot in enumerate(best)]
    return pairs, [slot if slot < len(things) else None for slot in best]


def _relation_credit(
    relation: str, order: Sequence[int | None], things: Sequence[_Thing], step: tuple[float, float]
) -> float:
    if order[0] is None or order[1] is None:
        return 0.0
    first, second = things[order[0]].best, things[order[1]].best
    return _beside_credit(relation, (first.x, first.y), (second.x, second.y), step)


def _beside_credit(
    relation: str, first: tuple[float, float], second: tuple[float, float], step: tuple[float, float]
) -> float:
    """1 where the relation holds (half a step), 0 where the contrary does."""
    dx, dy = (first[0] - second[0]) / step[0], (first[1] - second[1]) / step[1]
    along = {"left of": -dx, "right of": dx, "above": -dy, "below": dy}[relation]
    return _ramp(along, 0.5, -0.5)


def _kept_credit(picture: Picture, source: Picture, edit: Edit, view: _View, order: Sequence[int | None]) -> float:
    """The verifier's measure of what changed; an added object is free to stand wherever it was matched."""
    seen = [
        replace(view.things[slot].fits[thing.shape], color=thing.color)
        for thing, slot in zip(edit.target.objects, order, strict=True)
        if slot is not None
    ]
    changed = kept_difference(picture, source, edit, Reading(view.canvas, edit.target.background, tuple(seen)))
    return _ramp(changed, KEPT_DIFFERENCE, 6 * KEPT_DIFFERENCE)
