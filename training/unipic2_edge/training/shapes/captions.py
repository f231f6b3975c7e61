"""Captions: a text and what a picture must show to satisfy it, in GenEval's six tasks.

Single object, two objects, counting, colours, position, colour attribution (GenEval, arXiv 2310.11513).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .scene import Canvas, Object, Scene, choose, sample_scene

TASKS = ("single object", "two objects", "counting", "colors", "position", "color attribution")
RELATIONS = ("left of", "right of", "above", "below")
NUMBERS = ("zero", "one", "two", "three")
_HELD_OUT_SHARE = 8  # one text in eight is never trained on


@dataclass(frozen=True)
class Wanted:
    """One object that a caption asks for; what it leaves open is `None`."""

    shape: str
    color: str | None = None
    size: str | None = None


@dataclass(frozen=True)
class Caption:
    """A caption and its meaning: exactly these objects, the first in `relation` to the second."""

    text: str
    task: str
    objects: tuple[Wanted, ...]
    relation: str | None = None
    background: str | None = None


def held_out_text(text: str) -> bool:
    """Whether a text belongs to evaluation: a fixed eighth of all texts, by their checksum."""
    return zlib.crc32(text.encode()) % _HELD_OUT_SHARE == 0


def holds(relation: str, first: tuple[float, float], second: tuple[float, float], step: tuple[float, float]) -> bool:
    """Whether `first` stands in `relation` to `second`: their centres differ by more than half a grid step."""
    dx, dy = (first[0] - second[0]) / step[0], (first[1] - second[1]) / step[1]
    return {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}[relation]


def relations_between(first: Object, second: Object) -> list[str]:
    """All relations in which `first` stands to `second`, by their grid cells."""
    a, b = (first.cell[1], first.cell[0]), (second.cell[1], second.cell[0])
    return [relation for relation in RELATIONS if holds(relation, a, b, (1.0, 1.0))]


def phrase(thing: Wanted) -> str:
    """`a small red circle`; `an` never occurs before these words but before `orange`."""
    words = [word for word in (thing.size, thing.color, thing.shape) if word]
    return f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}"


def plural(shape: str) -> str:
    """The plural of a shape's name."""
    return shape + ("es" if shape.endswith("s") else "s")


def joined(phrases: list[str]) -> str:
    """`x`, `x and y`, `x, y and z`."""
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


def _single(scene: Scene, rng: np.random.Generator) -> Caption | None:
    if len(scene.objects) != 1:
        return None
    wanted = Wanted(scene.objects[0].shape)
    return Caption(phrase(wanted), TASKS[0], (wanted,))


def _two(scene: Scene, rng: np.random.Generator) -> Caption | None:
    if len(scene.objects) != 2 or scene.objects[0].shape == scene.objects[1].shape:
        return None
    wanted = tuple(Wanted(thing.shape) for thing in scene.objects)
    return Caption(joined([phrase(w) for w in wanted]), TASKS[1], wanted)


def _counting(scene: Scene, rng: np.random.Generator) -> Caption | None:
    if len(scene.objects) < 2 or len({thing.shape for thing in scene.objects}) != 1:
        return None
    colors = {thing.color for thing in scene.objects}
    color = colors.pop() if len(colors) == 1 and rng.random() < 0.7 else None
    wanted = (Wanted(scene.objects[0].shape, color),) * len(scene.objects)
    name = plural(wanted[0].shape)
    words = [NUMBERS[len(wanted)], color, name] if color else [NUMBERS[len(wanted)], name]
    return Caption(" ".join(w for w in words if w), TASKS[2], wanted)


def _colors(scene: Scene, rng: np.random.Generator) -> Caption | None:
    if len(scene.objects) != 1:
        return None
    thing = scene.objects[0]
    wanted = Wanted(thing.shape, thing.color, thing.size if rng.random() < 0.5 else None)
    return Caption(phrase(wanted), TASKS[3], (wanted,))


def _position(scene: Scene, rng: np.random.Generator) -> Caption | None:
    if len(scene.objects) != 2:
        return None
    first, second = (scene.objects[int(i)] for i in rng.permutation(2))
    colored = rng.random() < 0.5
    if first.shape == second.shape and not (colored and first.color != second.color):
        return None
    wanted = tuple(Wanted(thing.shape, thing.color if colored else None) for thing in (first, second))
    relation = choose(rng, relations_between(first, second))
    return Caption(f"{phrase(wanted[0])} {relation} {phrase(wanted[1])}", TASKS[4], wanted, relation)


def _attribution(scene: Scene, rng: np.random.Generator) -> Caption | None:
    if len(scene.objects) < 2:
        return None
    order = [scene.objects[int(i)] for i in rng.permutation(len(scene.objects))]
    wanted = tuple(Wanted(thing.shape, thing.color) for thing in order)
    if len(set(wanted)) != len(wanted):
        return None
    return Caption(joined([phrase(w) for w in wanted]), TASKS[5], wanted)


_MAKERS: dict[str, Callable[[Scene, np.random.Generator], Caption | None]] = dict(
    zip(TASKS, (_single, _two, _counting, _colors, _position, _attribution), strict=True)
)


def caption_for(scene: Scene, rng: np.random.Generator, task: str | None = None) -> Caption | None:
    """A caption that is true of the scene, of the given task or a random one; none if the task does not fit."""
    made = [c for name in ([task] if task else TASKS) if (c := _MAKERS[name](scene, rng)) is not None]
    if not made:
        return None
    caption = made[int(rng.integers(len(made)))]
    if rng.random() < 0.35:
        text = f"{caption.text} on a {scene.background} background"
        caption = replace(caption, text=text, background=scene.background)
    return caption


def training_caption(scene: Scene, rng: np.random.Generator) -> Caption | None:
    """A caption that training may see, or none if the scene (by chance) has only held-out ones.

    It names objects in reading order, unless it says where they stand. Order that tells nothing leaves open which
    object is which until a picture is half made, and then all have to agree; a model learns that last.
    """
    for _ in range(8):
        caption = caption_for(scene, rng)
        if caption is not None:
            caption = _in_reading_order(caption, scene)
            if not held_out_text(caption.text):
                return caption
    return None


def reading_order(scene: Scene) -> list[Object]:
    """A scene's objects left to right, those of one column from the top."""
    return sorted(scene.objects, key=lambda thing: (thing.cell[1], thing.cell[0]))


def _in_reading_order(caption: Caption, scene: Scene) -> Caption:
    """The same caption with the objects that it joins in the order in which the scene has them."""
    if caption.task not in ("two objects", "color attribution"):
        return caption
    colored = caption.objects[0].color is not None
    wanted = tuple(Wanted(thing.shape, thing.color if colored else None) for thing in reading_order(scene))
    rest = caption.text.removeprefix(joined([phrase(thing) for thing in caption.objects]))
    return replace(caption, text=joined([phrase(thing) for thing in wanted]) + rest, objects=wanted)


def evaluation_captions(count: int, canvas: Canvas, seed: int, combinations: bool = False) -> list[Caption]:
    """`count` captions that training never samples, the six tasks in turn.

    With `combinations` every caption names a held-out colour-shape combination instead (so the tasks that name
    no colours do not occur).
    """
    rng = np.random.default_rng([seed, int(combinations)])
    tasks = ("colors", "position", "color attribution") if combinations else TASKS
    captions: list[Caption] = []
    while len(captions) < count:
        scene = sample_scene(rng, canvas, held_out=combinations)
        caption = caption_for(scene, rng, tasks[len(captions) % len(tasks)])
        if caption is None:
            continue
        named = Scene(canvas, scene.background, _named(caption, scene))
        if named.held_out if combinations else held_out_text(caption.text):
            captions.append(caption)
    return captions


def _named(caption: Caption, scene: Scene) -> tuple[Object, ...]:
    """The scene's objects that the caption names with their colours."""
    colored = {(wanted.color, wanted.shape) for wanted in caption.objects}
    return tuple(thing for thing in scene.objects if (thing.color, thing.shape) in colored)
