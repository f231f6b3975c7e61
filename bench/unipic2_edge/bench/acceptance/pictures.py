"""The steps that make pictures and answers from end to end, with their seconds and scores beside the processor's."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from PIL import Image

from unipic2_edge.bench.quality import (
    PROMPT_SEED,
    Settings,
    editing_quality,
    generation_quality,
    score_record,
)
from unipic2_edge.bench.statistics import spread
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.runtime.request import task_defaults
from unipic2_edge.training.shapes.questions import evaluation_questions
from unipic2_edge.training.shapes.render import render
from unipic2_edge.training.shapes.scene import Canvas

from .bundles import small_bundle
from .step import Job, Made
from .ways import open_pipeline

_SEED = 21
_TIMED = 5


def make_pictures(job: Job) -> Made:
    """Generate and edit, judged by the shapes world's verifier, and the seconds of one picture at a time.

    Raises:
        SkippedError: the device does not take the engines.
        WorkError: a session failed.
    """
    pipeline, name = _opened(job, answers=False)
    settings = _settings(pipeline, job.setting.prompts)
    generated, edited = generation_quality(pipeline, settings), editing_quality(pipeline, settings)
    source = Image.fromarray(edited.sources[0])
    seconds = {
        "generate": _timed(lambda: pipeline.generate("a red circle", seed=_SEED)),
        "edit": _timed(lambda: pipeline.edit(source, edited.edits[0].text, seed=_SEED)),
    }
    rows = [
        {
            "task": task,
            "seconds": seconds[task],
            "score": score_record(score),
            "right": [verdict.right for verdict in verdicts],
        }
        for task, score, verdicts in (
            ("generate", generated.score, generated.verdicts),
            ("edit", edited.score, edited.verdicts),
        )
    ]
    return _beside(job, name, rows)


def give_answers(job: Job) -> Made:
    """Questions about pictures answered; the words themselves are compared with the processor's.

    Raises:
        SkippedError: the device does not take the engines.
        WorkError: a session failed.
    """
    pipeline, name = _opened(job, answers=True)
    settings = _settings(pipeline, job.setting.prompts)
    questions = evaluation_questions(settings.prompts, Canvas(settings.width, settings.height), PROMPT_SEED)
    asked = [(Image.fromarray(render(question.scene)), question) for question in questions]
    answers = [pipeline.describe(picture, question.text).text for picture, question in asked]
    picture, question = asked[0]
    seconds = _timed(lambda: pipeline.describe(picture, question.text).text)
    right = [answer.strip() == question.answer for answer, (_, question) in zip(answers, asked, strict=True)]
    row = {"task": "describe", "seconds": seconds, "right": right, "answers": answers}
    return _beside(job, name, [row])


def _opened(job: Job, answers: bool) -> tuple[Pipeline, str]:
    backend, recipe = job.step.arguments["backend"], job.step.arguments["recipe"]
    bundle = Bundle(small_bundle(job.setting, recipe, answers))
    return open_pipeline(job.setting, bundle, backend), f"{backend}-{recipe}"


def _settings(pipeline: Pipeline, prompts: int) -> Settings:
    default = task_defaults(pipeline.manifest, "generate")
    return Settings(prompts, default.num_inference_steps, default.guidance_scale, _SEED, default.width, default.height)


def _timed(make: Callable[[], object]) -> dict[str, float]:
    """Seconds of some runs, after the ones that made the scores warmed everything up."""
    make()  # another batch size has other kernels
    found = []
    for _ in range(_TIMED):
        start = time.perf_counter()
        make()
        found.append(time.perf_counter() - start)
    return spread(found).to_dict()


def _beside(job: Job, name: str, rows: list[dict[str, Any]]) -> Made:
    """The rows with what the processor made of the same prompts; far fewer right ones are a failure."""
    base = next((found["rows"] for found in job.found.values() if found.get("way") == "onnxruntime-fp32"), None)
    problem, lines = None, []
    for index, row in enumerate(rows):
        total, right = len(row["right"]), sum(row["right"])
        told = f"{row['task']}: {right} of {total} right, {row['seconds']['median']:.3f} s each"
        if base is not None:
            other = base[index]
            row["processor_right"] = sum(other["right"])
            row["equal_verdicts"] = sum(a == b for a, b in zip(row["right"], other["right"], strict=True))
            if "answers" in row:
                row["equal_answers"] = sum(a == b for a, b in zip(row["answers"], other["answers"], strict=True))
            told += f"; the processor {row['processor_right']}, {row['equal_verdicts']} verdicts equal"
            lost = sum(b and not a for a, b in zip(row["right"], other["right"], strict=True))
            won = sum(a and not b for a, b in zip(row["right"], other["right"], strict=True))
            if not _chance(lost, won):
                problem = problem or f"{row['task']}: {lost} right pictures are lost, {won} won"
        lines.append(told)
    return Made(results={"way": name, "rows": rows}, lines=lines, problem=problem)


def _chance(lost: int, won: int) -> bool:
    """Whether losing so many more than are won is still chance (exact McNemar test, one-sided, 1 %)."""
    from scipy.stats import binomtest

    return lost <= won or bool(binomtest(lost, lost + won, 0.5, alternative="greater").pvalue > 0.01)
