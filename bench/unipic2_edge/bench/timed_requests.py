"""What timed runs ask for: every time another prompt of as many words, and another picture: none is remembered."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
from PIL import Image

from unipic2_edge.training.shapes.render import render
from unipic2_edge.training.shapes.scene import BACKGROUNDS, COLORS, SHAPES, Canvas, Object, Scene

QUESTION = "describe the image."
_THINGS = [f"{color} {shape}" for color, shape in product(COLORS, SHAPES)]
_PAIRS = [f"a {first} and a {second}" for first, second in permutations(_THINGS, 2)]
_EDITS = [
    (color, shape, other) for color, shape, other in product(COLORS, SHAPES, COLORS) if other != color
]  # 210, far more than conditioners remember
_STRIDE = 37  # prime to both counts: neighbours differ in every word


def caption(number: int) -> str:
    """The prompt of a run; 1,190 differ."""
    return _PAIRS[number * _STRIDE % len(_PAIRS)]


def edit_request(number: int, size: tuple[int, int]) -> tuple[Image.Image, str]:
    """The picture and the instruction of a run, the picture of (width, height); 210 instructions differ."""
    color, shape, other = _EDITS[number * _STRIDE % len(_EDITS)]
    return picture(number, size, color, shape), f"change the color of the {color} {shape} to {other}"


def picture(number: int, size: tuple[int, int], color: str = "red", shape: str = "circle") -> Image.Image:
    """A shape somewhere on the canvas; no two numbers give the same picture."""
    rng = np.random.default_rng(number)
    x, y = rng.uniform(-2, 2, size=2)
    cell = (int(rng.integers(3)), int(rng.integers(3)))
    thing = Object(shape, color, cell, (float(x), float(y)), float(rng.uniform(11, 17)))
    background = tuple(BACKGROUNDS)[number % len(BACKGROUNDS)]
    return Image.fromarray(render(Scene(Canvas(*size), background, (thing,))))
