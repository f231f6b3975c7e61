"""The demo's own pictures: a few prompts, and one of their pictures edited in three ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.runtime.settings import save_picture
from unipic2_edge.training.shapes.captions import TASKS, Caption, Wanted
from unipic2_edge.training.shapes.render import Picture
from unipic2_edge.training.shapes.verifier import judge_generation, read

from .page import Shown
from .statistics import Spread, spread

SEED = 7
_TIMED = 5  # pictures each latency is the median of

_COLORS, _COUNTING, _POSITION, _ATTRIBUTION = TASKS[3], TASKS[2], TASKS[4], TASKS[5]
PROMPTS = (
    Caption("a red circle", _COLORS, (Wanted("circle", "red"),)),
    Caption("a large blue square on a white background", _COLORS, (Wanted("square", "blue", "large"),), None, "white"),
    Caption("two green triangles", _COUNTING, (Wanted("triangle", "green"),) * 2),
    Caption("three circles on a black background", _COUNTING, (Wanted("circle"),) * 3, None, "black"),
    Caption("a cross left of a ring", _POSITION, (Wanted("cross"), Wanted("ring")), "left of"),
    Caption(
        "a yellow square above a purple circle",
        _POSITION,
        (Wanted("square", "yellow"), Wanted("circle", "purple")),
        "above",
    ),
    Caption("a red square and a blue ring", _ATTRIBUTION, (Wanted("square", "red"), Wanted("ring", "blue"))),
    Caption(
        "a red circle, a blue square and a green ring",
        _ATTRIBUTION,
        (Wanted("circle", "red"), Wanted("square", "blue"), Wanted("ring", "green")),
    ),
)
#: Instruction → the object and the background (None: as it was) that the first prompt's picture must show after it.
EDITS: dict[str, tuple[Wanted, str | None]] = {
    "make the circle blue": (Wanted("circle", "blue"), None),
    "replace the circle with a square": (Wanted("square", "red"), None),
    "change the background to black": (Wanted("circle", "red"), "black"),
}


@dataclass(frozen=True)
class Showcase:
    """The pictures made, where they were written, and warm seconds of one picture and one edit."""

    generated: list[Shown]
    edited: list[Shown]
    files: list[Path]
    seconds: dict[str, Spread]


def make_showcase(pipeline: Pipeline, folder: Path) -> Showcase:
    """Make, judge and write every picture as a PNG that carries its settings, then time one of each task.

    Raises:
        OutputError, WorkError: a picture cannot be written, or the backend failed.
    """
    files: list[Path] = []
    generated = [_generate(pipeline, folder, files, index, caption) for index, caption in enumerate(PROMPTS)]
    source = generated[0].picture
    edited = [_edit(pipeline, folder, files, source, instruction) for instruction in EDITS]
    picture, instruction = Image.fromarray(source), next(iter(EDITS))
    seconds = {
        "generate": _timed(lambda: pipeline.generate(PROMPTS[0].text, seed=SEED).seconds),
        "edit": _timed(lambda: pipeline.edit(picture, instruction, seed=SEED).seconds),
    }
    return Showcase(generated, edited, files, seconds)


def _timed(work: Callable[[], dict[str, float]]) -> Spread:
    return spread([work()["total"] for _ in range(_TIMED)])


def _generate(pipeline: Pipeline, folder: Path, files: list[Path], index: int, caption: Caption) -> Shown:
    result = pipeline.generate(caption.text, seed=SEED + index)
    files.append(folder / f"{index + 1:02d}-{_file_name(caption.text)}.png")
    save_picture(result.images[0], files[-1], result.settings[0])
    picture = np.asarray(result.images[0])
    return Shown(caption.text, picture, judge_generation(picture, caption))


def _edit(pipeline: Pipeline, folder: Path, files: list[Path], source: Picture, instruction: str) -> Shown:
    result = pipeline.edit(Image.fromarray(source), instruction, seed=SEED)
    files.append(folder / f"01-then-{_file_name(instruction)}.png")
    save_picture(result.images[0], files[-1], result.settings[0])
    picture = np.asarray(result.images[0])
    wanted, background = EDITS[instruction]
    # The source was made, not drawn: its scene is not known, only what the verifier reads in it.
    caption = Caption(instruction, _COLORS, (wanted,), None, background or read(source).background)
    return Shown(instruction, picture, judge_generation(picture, caption), source)


def _file_name(text: str) -> str:
    return text.replace(",", "").replace(" ", "-")
