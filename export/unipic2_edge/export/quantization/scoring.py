"""Scores on the shapes world, candidate against reference on the same prompts and seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.training.shapes.captions import evaluation_captions
from unipic2_edge.training.shapes.edits import evaluation_edits
from unipic2_edge.training.shapes.render import render
from unipic2_edge.training.shapes.scene import Canvas
from unipic2_edge.training.shapes.scores import score_edits, score_generation

_BATCH = 16
_PROMPTS_SEED, _SEED = 2024, 1
_Z95 = 1.645  # one-sided


@dataclass(frozen=True)
class Verdicts:
    """Which prompts came out right, by task."""

    generate: tuple[bool, ...]
    edit: tuple[bool, ...]


@dataclass(frozen=True)
class Loss:
    """What a candidate lost, in points of a hundred.

    Attributes:
        reference: the reference's share of right pictures.
        candidate: the candidate's.
        points: reference − candidate.
        at_least: the loss that is beyond doubt, the lower end of its one-sided 95 % interval over paired prompts.
    """

    reference: float
    candidate: float
    points: float
    at_least: float


def judge(pipeline: Pipeline, count: int, done: Callable[[str], None] = lambda name: None) -> Verdicts:
    """Generate and edit the evaluation prompts, which training and calibration never see, and judge the pictures."""
    default = pipeline.manifest.defaults["generate"]
    canvas = Canvas(default.width, default.height)
    captions, edits = evaluation_captions(count, canvas, _PROMPTS_SEED), evaluation_edits(count, canvas, _PROMPTS_SEED)
    sources = [render(edit.source) for edit in edits]
    generated, edited = [], []
    for start in range(0, count, _BATCH):
        seeds = [_SEED + index for index in range(start, min(start + _BATCH, count))]
        words = [caption.text for caption in captions[start : start + _BATCH]]
        generated += [np.asarray(image) for image in pipeline.generate(words, seed=seeds).images]
        pictures = [Image.fromarray(source) for source in sources[start : start + _BATCH]]
        words = [edit.text for edit in edits[start : start + _BATCH]]
        edited += [np.asarray(image) for image in pipeline.edit(pictures, words, seed=seeds).images]
        done(f"{len(generated)} scored")
    _, first = score_generation(captions, generated)
    _, second = score_edits(edits, sources, edited)
    return Verdicts(tuple(verdict.right for verdict in first), tuple(verdict.right for verdict in second))


def loss(candidate: tuple[bool, ...], reference: tuple[bool, ...]) -> Loss:
    """The loss over paired prompts; its variance is that of the differences (McNemar)."""
    ours, theirs = np.array(candidate, dtype=np.float64), np.array(reference, dtype=np.float64)
    differences = theirs - ours
    error = float(differences.std()) / max(1, len(differences)) ** 0.5
    points = float(differences.mean())
    return Loss(
        round(100 * float(theirs.mean()), 2),
        round(100 * float(ours.mean()), 2),
        round(100 * points, 2),
        round(100 * (points - _Z95 * error), 2),
    )
