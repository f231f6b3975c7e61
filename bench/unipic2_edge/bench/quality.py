"""`bench quality`: a bundle's scores on the shapes world, on prompts that training never saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.training.shapes.captions import Caption, evaluation_captions
from unipic2_edge.training.shapes.edits import Edit, evaluation_edits
from unipic2_edge.training.shapes.render import Picture, render
from unipic2_edge.training.shapes.scene import Canvas
from unipic2_edge.training.shapes.scores import Score, score_edits, score_generation
from unipic2_edge.training.shapes.verifier import Verdict

_BATCH = 16
PROMPT_SEED = 2024  # of the evaluation sets; training's own looks use another


@dataclass(frozen=True)
class Settings:
    """What a score was measured with."""

    prompts: int
    steps: int
    guidance: float
    seed: int
    width: int
    height: int

    @property
    def canvas(self) -> Canvas:
        """The pictures' size."""
        return Canvas(self.width, self.height)


@dataclass(frozen=True)
class Generated:
    """Captions, the pictures made for them, and what the verifier says."""

    captions: list[Caption]
    pictures: list[Picture]
    verdicts: list[Verdict]
    score: Score


@dataclass(frozen=True)
class Edited:
    """Edits, their sources, the pictures made of them, and what the verifier says."""

    edits: list[Edit]
    sources: list[Picture]
    pictures: list[Picture]
    verdicts: list[Verdict]
    score: Score


def generation_quality(
    pipeline: Pipeline, settings: Settings, combinations: bool = False, done: Callable[[str], None] = lambda name: None
) -> Generated:
    """Generate one picture for each evaluation caption and judge it."""
    captions = evaluation_captions(settings.prompts, settings.canvas, PROMPT_SEED, combinations)
    pictures: list[Picture] = []
    for start in range(0, len(captions), _BATCH):
        part = captions[start : start + _BATCH]
        made = pipeline.generate(
            [caption.text for caption in part],
            seed=[settings.seed + start + index for index in range(len(part))],
            width=settings.width,
            height=settings.height,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
        )
        pictures += [np.asarray(image) for image in made.images]
        done(f"{len(pictures)} generated")
    score, verdicts = score_generation(captions, pictures)
    return Generated(captions, pictures, verdicts, score)


def editing_quality(pipeline: Pipeline, settings: Settings, done: Callable[[str], None] = lambda name: None) -> Edited:
    """Carry out every evaluation edit and judge it."""
    edits = evaluation_edits(settings.prompts, settings.canvas, PROMPT_SEED)
    sources = [render(edit.source) for edit in edits]
    pictures: list[Picture] = []
    for start in range(0, len(edits), _BATCH):
        part = edits[start : start + _BATCH]
        made = pipeline.edit(
            [Image.fromarray(source) for source in sources[start : start + _BATCH]],
            [edit.text for edit in part],
            seed=[settings.seed + start + index for index in range(len(part))],
            width=settings.width,
            height=settings.height,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
        )
        pictures += [np.asarray(image) for image in made.images]
        done(f"{len(pictures)} edited")
    score, verdicts = score_edits(edits, sources, pictures)
    return Edited(edits, sources, pictures, verdicts, score)


def score_record(score: Score) -> dict[str, object]:
    """A score as JSON: the mean over tasks, the interval of all pictures together, and each task."""
    low, high = score.interval
    return {
        "mean": round(score.mean, 4),
        "interval_95": [round(low, 4), round(high, 4)],
        "right": sum(score.right.values()),
        "total": sum(score.total.values()),
        "tasks": {task: {"right": score.right[task], "total": score.total[task]} for task in score.total},
    }


def batches(prompts: int) -> int:
    """How many batches a number of prompts takes."""
    return -(-prompts // _BATCH)
