"""Edits of pictures in a file, judged by a model behind a chat server.

unipic2-edge bench quality BUNDLE --edits edits.jsonl --judge http://127.0.0.1:8000/v1 --judge-model NAME
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unipic2_edge.runtime.errors import RequestError
from unipic2_edge.runtime.files import write_bytes
from unipic2_edge.runtime.images import open_image
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.training.reinforcement.prompts import read_lines
from unipic2_edge.training.rewards.judge import JudgeReward, Opinion
from unipic2_edge.training.rewards.reward import Asked

_DRAWS = 2000  # of the bootstrap


@dataclass(frozen=True)
class AskedEdit:
    """An instruction, the picture it is about, and the task it is counted under."""

    text: str
    image: Path
    task: str


def read_edits(path: Path) -> list[AskedEdit]:
    """The lines of a file: `text`, `image` (a path from the file's folder), and `task` where there are several.

    Raises:
        RecipeError: it cannot be read, or a line is no such record.
        RequestError: a line has no picture, or the file no line.
    """
    lines = read_lines(path)
    without = next((line["text"] for line in lines if "image" not in line), None)
    if without is not None or not lines:
        raise RequestError(
            f"{path}: {without!r} has no image" if lines else f"{path} holds no edit",
            'give lines like {"text": "make the car red", "image": "cars/1.png", "task": "color"}',
        )
    return [AskedEdit(line["text"], path.parent / line["image"], str(line.get("task", "edit"))) for line in lines]


@dataclass
class Opinions:
    """Values 0…1 by task and by question, in the order of the edits; `unanswered` counts the judge's nonsense."""

    by_task: dict[str, list[float]] = field(default_factory=dict)
    by_question: dict[str, list[float]] = field(default_factory=dict)
    unanswered: int = 0

    def add(self, task: str, opinion: Opinion) -> None:
        """Count one picture; nonsense is no score."""
        if not opinion.answered:
            self.unanswered += 1
            return
        self.by_task.setdefault(task, []).append(opinion.value)
        for question, value in opinion.scores.items():
            self.by_question.setdefault(question, []).append(value)


def judge_edits(
    pipeline: Pipeline,
    judge: JudgeReward,
    edits: Sequence[AskedEdit],
    options: Mapping[str, Any],
    pictures: Path | None = None,
    done: Callable[[str], None] = lambda name: None,
) -> Opinions:
    """Carry out every edit, in its source's shape, and ask about it.

    Args:
        pipeline: makes them.
        judge: asked after each.
        edits: what to do.
        options: `seed` of the first picture, the next ones count up; and other arguments of `Pipeline.edit`.
        pictures: a folder to keep source and result in, by number.
        done: called after each edit.

    Raises:
        UserError: a picture cannot be read, the pipeline refuses an edit, or the judge does not judge.
    """
    opinions, together = Opinions(), judge.settings.concurrency
    for start in range(0, len(edits), together):
        asked: list[Asked] = []
        made: list[NDArray[np.uint8]] = []
        for index, edit in enumerate(edits[start : start + together], start):
            source = open_image(edit.image)
            seed = int(options["seed"]) + index
            image = pipeline.edit(source, edit.text, **{**options, "seed": seed}).images[0]
            shown = source.convert("RGB").resize(image.size, Image.Resampling.LANCZOS)
            asked.append(Asked(edit.text, np.asarray(shown)))
            made.append(np.asarray(image))
            if pictures is not None:
                _keep(pictures / f"{index:05}-source.png", shown)
                _keep(pictures / f"{index:05}-edited.png", image)
            done(f"{index + 1} edited")
        for edit, opinion in zip(edits[start:], judge.opinions(asked, made), strict=False):
            opinions.add(edit.task, opinion)
    return opinions


def _keep(path: Path, image: Image.Image) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def mean_record(values: Sequence[float]) -> dict[str, object]:
    """A mean and its 95 % interval: percentiles of resampled means (Efron 1979), with fixed draws."""
    drawn = np.random.default_rng(0).choice(np.asarray(values), (_DRAWS, len(values))).mean(axis=1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return {
        "mean": round(float(np.mean(values)), 4),
        "total": len(values),
        "interval_95": [round(float(low), 4), round(float(high), 4)],
    }


def opinions_record(opinions: Opinions) -> dict[str, object]:
    """As JSON: all edits together, each task, each question."""
    everything = [value for values in opinions.by_task.values() for value in values]
    return {
        **mean_record(everything),
        "unanswered": opinions.unanswered,
        "tasks": {task: mean_record(values) for task, values in opinions.by_task.items()},
        "questions": {question: mean_record(values) for question, values in opinions.by_question.items()},
    }
