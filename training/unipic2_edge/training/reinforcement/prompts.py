"""What is asked for: of the shapes world, drawn as needed; or of a file, line by line."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..errors import RecipeError
from ..rewards.reward import Asked, Picture
from ..shapes.captions import TASKS, Caption, caption_for, evaluation_captions, held_out_text
from ..shapes.edits import Edit, evaluation_edits, training_edit
from ..shapes.render import render
from ..shapes.scene import Canvas, sample_scene
from .settings import Reinforce


class Prompts(ABC):
    """Where requests come from; those of training and of evaluation are disjoint."""

    @abstractmethod
    def training(self, rng: np.random.Generator, count: int, edit: bool, canvas: Canvas) -> list[Asked]:
        """`count` requests of one task, with sources of the canvas's size."""

    @abstractmethod
    def evaluation(self, count: int, edit: bool, canvas: Canvas) -> list[Asked]:
        """Always the same ones, at most `count`."""


class ShapesPrompts(Prompts):
    """Captions of the six tasks in turn, edits of the six kinds at random."""

    def training(self, rng: np.random.Generator, count: int, edit: bool, canvas: Canvas) -> list[Asked]:
        """Texts that the held-out eighth does not have."""
        if edit:
            return [_edit(training_edit(rng, canvas)) for _ in range(count)]
        first = int(rng.integers(len(TASKS)))
        return [_caption(_training_caption(rng, canvas, TASKS[(first + i) % len(TASKS)])) for i in range(count)]

    def evaluation(self, count: int, edit: bool, canvas: Canvas) -> list[Asked]:
        """Of the held-out eighth."""
        if edit:
            return [_edit(edit) for edit in evaluation_edits(count, canvas, seed=11)]
        return [_caption(caption) for caption in evaluation_captions(count, canvas, seed=11)]


def _training_caption(rng: np.random.Generator, canvas: Canvas, task: str) -> Caption:
    while True:
        caption = caption_for(sample_scene(rng, canvas), rng, task)
        if caption is not None and not held_out_text(caption.text):
            return caption


def _edit(edit: Edit) -> Asked:
    return Asked(edit.text, render(edit.source), edit)


def _caption(caption: Caption) -> Asked:
    return Asked(caption.text, None, caption)


class FilePrompts(Prompts):
    """JSON lines: `text`, or `prompt` as in GenEval's; `image`, a path from the file's folder, in edits.

    The whole line is the record.

    Raises:
        RecipeError: a file is missing or a line is not such a record.
    """

    def __init__(self, training: Path, evaluation: Path | None) -> None:
        self.folder = training.parent
        self._training = read_lines(training)
        self._evaluation = read_lines(evaluation) if evaluation is not None else []
        seen = {_key(line) for line in self._training}
        both = next((line for line in self._evaluation if _key(line) in seen), None)
        if both is not None:
            raise RecipeError(f"{both['text']!r} is to be trained on and evaluated", "keep the two files disjoint")

    def training(self, rng: np.random.Generator, count: int, edit: bool, canvas: Canvas) -> list[Asked]:
        """At random, with repetition only where there are too few."""
        lines = _of_task(self._training, edit)
        if not lines:
            raise RecipeError(f"the prompts have none for {'editing' if edit else 'generation'}", "see edit_share")
        picks = rng.choice(len(lines), count, replace=len(lines) < count)
        return [self._asked(lines[int(pick)], canvas) for pick in picks]

    def evaluation(self, count: int, edit: bool, canvas: Canvas) -> list[Asked]:
        """The first ones of the evaluation file."""
        return [self._asked(line, canvas) for line in _of_task(self._evaluation, edit)[:count]]

    def _asked(self, line: dict[str, Any], canvas: Canvas) -> Asked:
        source = _picture(self.folder / line["image"], canvas) if "image" in line else None
        return Asked(line["text"], source, line)


def _key(line: dict[str, Any]) -> tuple[str, str]:
    return line["text"], str(line.get("image"))


def _of_task(lines: list[dict[str, Any]], edit: bool) -> list[dict[str, Any]]:
    return [line for line in lines if ("image" in line) == edit]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines, with a text each.

    Raises:
        RecipeError: it cannot be read, or a line is no such record.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"the prompts {path} cannot be read: {error}", "give a file of JSON lines") from error
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            record = json.loads(line) if line.strip() else None
        except json.JSONDecodeError as error:
            raise RecipeError(f"{path}, line {number}: {error}", "one JSON object a line") from error
        if record is None:
            continue
        if isinstance(record, dict) and "prompt" in record:
            record = {"text": record["prompt"], **record}
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise RecipeError(f"{path}, line {number} has no text", 'for instance {"text": "a red circle"}')
        if not isinstance(record.get("image", ""), str):
            raise RecipeError(f"{path}, line {number}: image is no path", "give it from the file's folder")
        lines.append(record)
    return lines


def _picture(path: Path, canvas: Canvas) -> Picture:
    """Cut to the canvas's proportions around its middle, and resized."""
    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
            fitted = ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (canvas.width, canvas.height))
    except (OSError, Image.DecompressionBombError) as error:
        raise RecipeError(f"the picture {path} cannot be read: {error}", "see reinforce.prompts") from error
    return np.asarray(fitted)


def make_prompts(settings: Reinforce) -> Prompts:
    """Those that a recipe names."""
    if settings.prompts == "shapes":
        return ShapesPrompts()
    evaluation = Path(settings.evaluation) if settings.evaluation else None
    return FilePrompts(Path(settings.prompts), evaluation)
