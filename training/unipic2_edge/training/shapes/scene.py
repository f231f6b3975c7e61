"""A scene: up to three coloured objects on a 3×3 grid, and how one is drawn at random.

Lengths are in pixels of the canvas; the world is specified at a shorter side of 128 and scales with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 215, 40),
    "purple": (150, 50, 190),
    "orange": (245, 135, 25),
    "cyan": (40, 200, 215),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (245, 245, 245),
    "gray": (120, 120, 120),
    "black": (15, 15, 15),
}
GRID = 3
REFERENCE_SIDE = 128  # the shorter side at which the lengths below hold
RADIUS = (11.0, 17.0)
SMALL = (11.0, 12.6)
LARGE = (15.4, 17.0)
JITTER = 2.0
#: Combinations that training never shows: scores on them are reported apart.
HELD_OUT_COMBINATIONS = frozenset({("purple", "triangle"), ("cyan", "ring")})

Cell = tuple[int, int]  # row, column


@dataclass(frozen=True)
class Canvas:
    """The picture's size in pixels."""

    width: int
    height: int

    @property
    def scale(self) -> float:
        """Pixels per reference pixel."""
        return min(self.width, self.height) / REFERENCE_SIDE

    def cell_center(self, cell: Cell) -> tuple[float, float]:
        """The (x, y) centre of a grid cell, in pixels."""
        row, column = cell
        return (column + 0.5) * self.width / GRID, (row + 0.5) * self.height / GRID


@dataclass(frozen=True)
class Object:
    """One shape: its cell, its offset from the cell's centre and its radius (pixels at side 128)."""

    shape: str
    color: str
    cell: Cell
    offset: tuple[float, float]
    radius: float

    @property
    def size(self) -> str | None:
        """`small`, `large`, or nothing in between."""
        if self.radius <= SMALL[1]:
            return "small"
        return "large" if self.radius >= LARGE[0] else None

    def placed(self, canvas: Canvas) -> tuple[float, float, float]:
        """Centre x, centre y and radius in canvas pixels."""
        x, y = canvas.cell_center(self.cell)
        return (
            x + self.offset[0] * canvas.scale,
            y + self.offset[1] * canvas.scale,
            self.radius * canvas.scale,
        )


@dataclass(frozen=True)
class Scene:
    """What a picture shows."""

    canvas: Canvas
    background: str
    objects: tuple[Object, ...]

    def with_objects(self, *objects: Object) -> Scene:
        """The same canvas and background with other objects."""
        return replace(self, objects=objects)

    def free_cells(self) -> list[Cell]:
        """Cells that no object stands in, row by row."""
        taken = {thing.cell for thing in self.objects}
        return [(r, c) for r in range(GRID) for c in range(GRID) if (r, c) not in taken]

    @property
    def held_out(self) -> bool:
        """Whether it shows a combination that training must never see."""
        return any((thing.color, thing.shape) in HELD_OUT_COMBINATIONS for thing in self.objects)


def choose(rng: np.random.Generator, options: tuple[str, ...] | list[str]) -> str:
    """One of the options, uniformly."""
    return options[int(rng.integers(len(options)))]


def sample_object(rng: np.random.Generator, cell: Cell, shape: str | None = None, color: str | None = None) -> Object:
    """A random object in `cell`; a third each is small, large, or anywhere in the range of radii."""
    low, high = (SMALL, LARGE, RADIUS)[int(rng.integers(3))]
    dx, dy = rng.uniform(-JITTER, JITTER, size=2)
    return Object(
        shape=shape or choose(rng, SHAPES),
        color=color or choose(rng, tuple(COLORS)),
        cell=cell,
        offset=(float(dx), float(dy)),
        radius=float(rng.uniform(low, high)),
    )


def sample_scene(rng: np.random.Generator, canvas: Canvas, held_out: bool = False) -> Scene:
    """A random scene of one to three objects; a third of the scenes repeat one shape (for counting).

    With `held_out` false the held-out combinations never occur; with it true one always does.
    """
    while True:
        count = int(rng.choice(3, p=(0.25, 0.45, 0.3))) + 1
        cells = [divmod(int(i), GRID) for i in rng.permutation(GRID * GRID)[:count]]
        alike = count > 1 and rng.random() < 0.33
        shape = choose(rng, SHAPES) if alike else None
        color = choose(rng, tuple(COLORS)) if alike and rng.random() < 0.5 else None
        objects = tuple(sample_object(rng, (cell[0], cell[1]), shape, color) for cell in cells)
        scene = Scene(canvas, choose(rng, tuple(BACKGROUNDS)), objects)
        if scene.held_out == held_out:
            return scene
