"""The verifier: what a picture shows, and whether that is what was asked for. Rules only, no model.

A picture is read by analysis and synthesis: background from the border, foreground by colour distance,
components, the nearest palette colour, the best-overlapping shape template; then the reading is drawn again
and must explain the picture, so that blur, noise and debris are refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .captions import Caption, Wanted, holds
from .edits import Edit
from .render import SQUARE_HALF_SIDE, TRIANGLE_BASE, Picture, coverage
from .scene import BACKGROUNDS, COLORS, GRID, LARGE, RADIUS, SHAPES, SMALL, Canvas, Object, Scene

Floats = NDArray[np.float32]

FOREGROUND_DISTANCE = 48.0  # RGB distance from the background at which a pixel belongs to an object
COLOR_DISTANCE = 60.0  # how far a measured colour may be from its palette entry
MIN_OVERLAP = 0.75  # soft intersection over union of an object and its template
MAX_RESIDUAL = 7.0  # mean absolute difference (of 255) between the picture and its reading, drawn again
MAX_DEBRIS = 3  # foreground pixels that may belong to no object
RADIUS_SLACK = 1.25  # pixels (at side 128) beyond the world's range of radii
KEPT_DIFFERENCE = 12.0  # mean absolute difference allowed where an edit must change nothing

#: Width and height of each template over its radius.
_EXTENT = {
    "circle": (2.0, 2.0),
    "square": (2 * SQUARE_HALF_SIDE, 2 * SQUARE_HALF_SIDE),
    "triangle": (2.0, 1 + TRIANGLE_BASE),
    "cross": (2.0, 2.0),
    "ring": (2.0, 2.0),
}


@dataclass(frozen=True)
class Seen:
    """One object as read from a picture: centre and radius in pixels, overlap with its template."""

    shape: str
    color: str
    x: float
    y: float
    radius: float
    overlap: float


@dataclass(frozen=True)
class Reading:
    """Everything a picture shows; `fault` says why it is not a picture of this world, if it is not."""

    canvas: Canvas
    background: str | None
    objects: tuple[Seen, ...]
    fault: str | None = None


@dataclass(frozen=True)
class Verdict:
    """Right or wrong, and why wrong."""

    right: bool
    reason: str = ""


def read(picture: Picture) -> Reading:
    """Read a picture [H, W, 3] uint8."""
    canvas = Canvas(picture.shape[1], picture.shape[0])
    pixels = picture.astype(np.float32)
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    ground = np.median(border, axis=0)
    background = nearest(ground, BACKGROUNDS)
    if background is None:
        return Reading(canvas, None, (), "the background has none of the three colours")
    foreground = distance(pixels, ground) > FOREGROUND_DISTANCE
    labels = np.asarray(ndimage.label(foreground, np.ones((3, 3)))[0])
    objects: list[Seen] = []
    debris = 0
    smallest = 0.5 * np.pi * (SMALL[0] * canvas.scale) ** 2 * 0.35
    for index, window in enumerate(ndimage.find_objects(labels), 1):
        area = int((labels[window] == index).sum())
        if area < smallest:
            debris += area
            continue
        seen = _read_object(pixels, labels == index, window, ground, canvas)
        if isinstance(seen, str):
            return Reading(canvas, background, tuple(objects), seen)
        objects.append(seen)
    reading = Reading(canvas, background, tuple(objects))
    if debris > MAX_DEBRIS:
        return Reading(canvas, background, tuple(objects), f"{debris} stray pixels")
    residual = float(np.abs(pixels - draw(reading)).mean())
    if residual > MAX_RESIDUAL:
        return Reading(canvas, background, tuple(objects), f"blurred or noisy (residual {residual:.1f})")
    return reading


def distance(pixels: Floats, color: Floats) -> Floats:
    """Euclidean, in RGB, pixel by pixel."""
    return np.asarray(np.sqrt(((pixels - color) ** 2).sum(-1)), dtype=np.float32)


def nearest(color: Floats, palette: dict[str, tuple[int, int, int]]) -> str | None:
    """The palette's nearest entry, if it is near enough."""
    distances = {name: float(np.linalg.norm(color - np.asarray(entry))) for name, entry in palette.items()}
    best = min(distances, key=lambda name: distances[name])
    return best if distances[best] <= COLOR_DISTANCE else None


def _read_object(
    pixels: Floats, mask: NDArray[np.bool_], window: tuple[slice, slice], ground: Floats, canvas: Canvas
) -> Seen | str:
    """One component as a shape of the world, or the reason why it is none."""
    measured, fits = fitted(pixels, mask, window, ground)
    color = nearest(measured, COLORS)
    if color is None:
        return "an object has none of the seven colours"
    seen = replace(max(fits, key=lambda one: one.overlap), color=color)
    if seen.overlap < MIN_OVERLAP:
        return f"an object has none of the five shapes (nearest: {seen.shape}, overlap {seen.overlap:.2f})"
    low, high = (RADIUS[0] - RADIUS_SLACK) * canvas.scale, (RADIUS[1] + RADIUS_SLACK) * canvas.scale
    if not low <= seen.radius <= high:
        return f"a {seen.shape} is too {'small' if seen.radius < low else 'large'}"
    return seen


def fitted(
    pixels: Floats, mask: NDArray[np.bool_], window: tuple[slice, slice], ground: Floats
) -> tuple[Floats, list[Seen]]:
    """One component's median colour [3], and each shape where it lies over it best, colours left open."""
    inside = ndimage.binary_erosion(mask[window])
    measured = np.asarray(np.median(pixels[window][inside if inside.any() else mask[window]], axis=0), np.float32)
    pad = 2
    rows = slice(max(0, window[0].start - pad), window[0].stop + pad)
    columns = slice(max(0, window[1].start - pad), window[1].stop + pad)
    span = measured - ground
    near = ndimage.binary_dilation(mask[rows, columns], iterations=2)
    alpha = np.clip((pixels[rows, columns] - ground) @ span / float(span @ span), 0.0, 1.0) * near  # [h, w]
    return measured, [_fit(shape, alpha, columns.start, rows.start) for shape in SHAPES]


def _fit(shape: str, alpha: Floats, left: int, top: int) -> Seen:
    """Place a template by the soft extent of `alpha`, then search its neighbourhood for the best overlap."""
    across, down = alpha.max(axis=0), alpha.max(axis=1)
    width, height = float(across.sum()), float(down.sum())
    x = float((across * (np.arange(len(across)) + 0.5)).sum()) / width
    y = float((down * (np.arange(len(down)) + 0.5)).sum()) / height
    w, h = _EXTENT[shape]
    radius = (width / w + height / h) / 2
    if shape == "triangle":  # its centre is not the middle of its box
        y += radius * (1 - TRIANGLE_BASE) / 2
    steps = np.array([-0.4, 0.0, 0.4], np.float32)
    xs, ys, rs = (grid.ravel() for grid in np.meshgrid(x + steps, y + steps, radius + steps, indexing="ij"))
    dx = (np.arange(alpha.shape[1], dtype=np.float32) + 0.5)[None, None, :] - xs[:, None, None]  # [27, 1, w]
    dy = (np.arange(alpha.shape[0], dtype=np.float32) + 0.5)[None, :, None] - ys[:, None, None]  # [27, h, 1]
    drawn = coverage(shape, dx, dy, rs[:, None, None])  # [27, h, w]
    overlaps = np.minimum(drawn, alpha).sum((1, 2)) / np.maximum(drawn, alpha).sum((1, 2))
    best = int(overlaps.argmax())
    return Seen(shape, "", left + float(xs[best]), top + float(ys[best]), float(rs[best]), float(overlaps[best]))


def draw(reading: Reading) -> Floats:
    """The reading as a picture [H, W, 3] of floats, in palette colours."""
    canvas = reading.canvas
    picture = np.empty((canvas.height, canvas.width, 3), np.float32)
    picture[:] = BACKGROUNDS[reading.background or "black"]
    xs = np.arange(canvas.width, dtype=np.float32)[None, :] + np.float32(0.5)
    ys = np.arange(canvas.height, dtype=np.float32)[:, None] + np.float32(0.5)
    for seen in reading.objects:
        alpha = coverage(seen.shape, xs - np.float32(seen.x), ys - np.float32(seen.y), seen.radius)[..., None]
        picture += alpha * (np.asarray(COLORS[seen.color], np.float32) - picture)
    return picture


def judge_generation(picture: Picture, caption: Caption) -> Verdict:
    """Whether a picture shows all that the caption asks for, and nothing else."""
    reading = read(picture)
    if reading.fault:
        return Verdict(False, reading.fault)
    if caption.background and reading.background != caption.background:
        return Verdict(False, f"the background is {reading.background}")
    if len(reading.objects) != len(caption.objects):
        return Verdict(False, f"{len(reading.objects)} objects instead of {len(caption.objects)}")
    if any(_satisfies(order, caption, reading.canvas) for order in permutations(reading.objects)):
        return Verdict(True)
    found = ", ".join(f"{seen.color} {seen.shape}" for seen in reading.objects)
    return Verdict(False, f"it shows {found}")


def _satisfies(seen: tuple[Seen, ...], caption: Caption, canvas: Canvas) -> bool:
    if not all(_is(thing, wanted, canvas) for thing, wanted in zip(seen, caption.objects, strict=True)):
        return False
    if caption.relation is None:
        return True
    return holds(caption.relation, (seen[0].x, seen[0].y), (seen[1].x, seen[1].y), grid_step(canvas))


def _is(seen: Seen, wanted: Wanted, canvas: Canvas) -> bool:
    middle = (SMALL[1] + LARGE[0]) / 2 * canvas.scale
    sized = wanted.size is None or (seen.radius < middle) == (wanted.size == "small")
    return sized and seen.shape == wanted.shape and wanted.color in (None, seen.color)


def grid_step(canvas: Canvas) -> tuple[float, float]:
    """Width and height of a grid cell, in pixels."""
    return canvas.width / GRID, canvas.height / GRID


def judge_edit(picture: Picture, source: Picture, edit: Edit) -> Verdict:
    """Whether the instruction was followed and everything outside the edited region was kept."""
    if picture.shape != source.shape:
        return Verdict(False, "the size changed")
    reading = read(picture)
    if reading.fault:
        return Verdict(False, reading.fault)
    if reading.background != edit.target.background:
        return Verdict(False, f"the background is {reading.background}")
    if len(reading.objects) != len(edit.target.objects):
        return Verdict(False, f"{len(reading.objects)} objects instead of {len(edit.target.objects)}")
    left = list(reading.objects)
    for thing in edit.target.objects:
        match = next((seen for seen in left if _stands_for(seen, thing, edit)), None)
        if match is None:
            return Verdict(False, f"no {thing.color} {thing.shape} where it belongs")
        left.remove(match)
    changed = kept_difference(picture, source, edit, reading)
    if changed > KEPT_DIFFERENCE:
        return Verdict(False, f"what should be kept changed (mean difference {changed:.1f})")
    return Verdict(True)


def _stands_for(seen: Seen, thing: Object, edit: Edit) -> bool:
    """Whether a seen object is the wanted one: shape, colour and place (an added one: its relation)."""
    if (seen.shape, seen.color) != (thing.shape, thing.color):
        return False
    canvas = edit.target.canvas
    step = grid_step(canvas)
    if thing in edit.added and edit.anchor is not None and edit.relation is not None:
        x, y, _ = edit.anchor.placed(canvas)
        return holds(edit.relation, (seen.x, seen.y), (x, y), step)
    x, y, _ = thing.placed(canvas)
    return abs(seen.x - x) < step[0] / 2 and abs(seen.y - y) < step[1] / 2


def kept_difference(picture: Picture, source: Picture, edit: Edit, reading: Reading) -> float:
    """Mean absolute difference where nothing may change: the largest of the ground's and each kept object's.

    Averaging over the whole picture would hide a changed object behind a large background.
    """
    difference = np.abs(picture.astype(np.float32) - source.astype(np.float32)).mean(-1)  # [H, W]
    canvas = edit.source.canvas
    touched = [thing.placed(canvas) for thing in edit.removed + edit.added]
    if edit.relation is not None:  # the added object stands where it was seen, not where we would have put it
        touched = [(seen.x, seen.y, seen.radius) for seen in reading.objects if _is_added(seen, edit)]
    free = ~_discs(touched, canvas, margin=3.0)
    kept = [thing.placed(canvas) for thing in edit.source.objects if thing not in edit.removed]
    regions = [_discs([place], canvas, margin=0.0) & free for place in kept]
    if edit.kind == "background":  # only what is surely inside an object is kept
        pixels = source.astype(np.float32)
        inside = distance(pixels, np.asarray(BACKGROUNDS[edit.source.background], np.float32)) > FOREGROUND_DISTANCE
        core: NDArray[np.bool_] = np.asarray(ndimage.binary_erosion(inside), dtype=bool)
        regions = [region & core for region in regions]
    else:
        regions.append(free)
    return max((float(difference[region].mean()) for region in regions if region.any()), default=0.0)


def _is_added(seen: Seen, edit: Edit) -> bool:
    return any(
        (seen.shape, seen.color) == (thing.shape, thing.color) and _stands_for(seen, thing, edit)
        for thing in edit.added
    )


def _discs(places: list[tuple[float, float, float]], canvas: Canvas, margin: float) -> NDArray[np.bool_]:
    """Pixels within radius + margin (at side 128) of any of the places; corners included."""
    rows, columns = np.mgrid[0 : canvas.height, 0 : canvas.width] + 0.5
    inside = np.zeros((canvas.height, canvas.width), bool)
    for x, y, radius in places:
        reach = radius + margin * canvas.scale
        inside |= np.maximum(np.abs(columns - x), np.abs(rows - y)) <= reach
    return inside


def scene_reads_back(scene: Scene, picture: Picture) -> Verdict:
    """Whether a picture shows exactly this scene: the test of autoencoder reconstructions."""
    edit = Edit("", "none", scene, scene)
    reading = read(picture)
    if reading.fault:
        return Verdict(False, reading.fault)
    if reading.background != scene.background or len(reading.objects) != len(scene.objects):
        return Verdict(False, "background or number of objects")
    lost = [t for t in scene.objects if not any(_stands_for(seen, t, edit) for seen in reading.objects)]
    return Verdict(not lost, ", ".join(f"no {t.color} {t.shape}" for t in lost))
