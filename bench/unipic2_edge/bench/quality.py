"""`bench quality`: a bundle's scores on the shapes world, on prompts that training never saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from unipic2_edge.runtime.autoencoder import Autoencoder
from unipic2_edge.runtime.images import to_array, to_pictures
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.training.shapes.captions import Caption, evaluation_captions
from unipic2_edge.training.shapes.edits import Edit, evaluation_edits
from unipic2_edge.training.shapes.questions import evaluation_questions, score_answers
from unipic2_edge.training.shapes.render import Picture, render
from unipic2_edge.training.shapes.scene import Canvas
from unipic2_edge.training.shapes.scores import Score, score, score_edits, score_generation, wilson
from unipic2_edge.training.shapes.verifier import Verdict, scene_reads_back

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
    scored, verdicts = score_generation(captions, pictures)
    return Generated(captions, pictures, verdicts, scored)


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
    scored, verdicts = score_edits(edits, sources, pictures)
    return Edited(edits, sources, pictures, verdicts, scored)


def understanding_quality(
    pipeline: Pipeline, settings: Settings, done: Callable[[str], None] = lambda name: None
) -> Score:
    """Ask a question about a picture for each prompt; right is the exact answer."""
    questions = evaluation_questions(settings.prompts, settings.canvas, PROMPT_SEED)
    answers: list[str] = []
    for question in questions:
        answers.append(pipeline.describe(Image.fromarray(render(question.scene)), question.text).text)
        if len(answers) % _BATCH == 0 or len(answers) == len(questions):
            done(f"{len(answers)} answered")
    return score_answers(questions, answers)


def reconstruction_quality(pipeline: Pipeline, settings: Settings) -> Score:
    """Encode and decode true pictures; the share that still shows its scene is the most that editing can reach."""
    scenes = [edit.target for edit in evaluation_edits(settings.prompts, settings.canvas, PROMPT_SEED)]
    autoencoder = Autoencoder(pipeline.sessions, pipeline.manifest.latents)
    images = np.concatenate([to_array(Image.fromarray(render(scene))) for scene in scenes])
    decoded = to_pictures(autoencoder.decode(autoencoder.encode(images)))
    verdicts = [scene_reads_back(scene, np.asarray(image)) for scene, image in zip(scenes, decoded, strict=True)]
    return score(["scene"] * len(scenes), verdicts)


def score_record(scored: Score) -> dict[str, object]:
    """A score as JSON: the mean over tasks, all pictures together and each task with their 95 % intervals."""
    right, total = sum(scored.right.values()), sum(scored.total.values())
    return {
        "mean": round(scored.mean, 4),
        **_share(right, total),
        "tasks": {task: _share(scored.right[task], scored.total[task]) for task in scored.total},
    }


def _share(right: int, total: int) -> dict[str, object]:
    low, high = wilson(right, total)
    return {"right": right, "total": total, "interval_95": [round(low, 4), round(high, 4)]}


def score_lines(name: str, scored: Score) -> list[str]:
    """A score for people: the mean over tasks, then each task with its interval."""
    low, high = scored.interval
    lines = [f"{name}: {scored.mean:.3f} (95 %: {low:.3f}–{high:.3f}, {sum(scored.total.values())} pictures)"]
    for task, total in scored.total.items():
        low, high = wilson(scored.right[task], total)
        lines.append(f"  {task:<18} {scored.right[task]:4d} / {total:<4d} {low:.2f}–{high:.2f}")
    return lines


def batches(prompts: int) -> int:
    """How many batches a number of prompts takes."""
    return -(-prompts // _BATCH)
