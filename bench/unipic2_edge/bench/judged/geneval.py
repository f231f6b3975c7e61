"""Pictures for GenEval's prompts, judged by its protocol, and kept as its own tool wants to find them.

unipic2-edge bench quality BUNDLE --protocol geneval --metadata evaluation_metadata.jsonl --pictures geneval
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unipic2_edge.runtime.files import write_bytes
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.training.rewards.geneval import GenevalReward
from unipic2_edge.training.rewards.geneval_metadata import TASKS, Metadata
from unipic2_edge.training.shapes.scores import Score

from ..quality import Settings


@dataclass(frozen=True)
class Tally:
    """The strict score by task, and the mean partial credit that a reward would give."""

    score: Score
    credit: float


def judge_generation(
    pipeline: Pipeline,
    reward: GenevalReward,
    lines: Sequence[tuple[Metadata, dict[str, Any]]],
    settings: Settings,
    samples: int,
    pictures: Path | None = None,
    done: Callable[[str], None] = lambda name: None,
) -> Tally:
    """Make `samples` pictures for each prompt and judge them.

    Args:
        pipeline: makes them.
        reward: judges them.
        lines: metadata, as read and as they stood in the file.
        settings: of the pictures; seeds count up over all of them.
        samples: pictures for each prompt; GenEval has four.
        pictures: a folder to keep them in, an empty one or none.
        done: called after each prompt.

    Raises:
        UserError: the pipeline or the detector refuses a prompt.
    """
    reward.check([metadata for metadata, _ in lines])
    verdicts: list[tuple[str, bool]] = []
    credits: list[float] = []
    for index, (metadata, line) in enumerate(lines):
        made = pipeline.generate(
            metadata.prompt,
            seed=settings.seed + index * samples,
            num_images=samples,
            width=settings.width,
            height=settings.height,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
        )
        found = reward.verdicts([metadata] * samples, [np.asarray(image) for image in made.images])
        verdicts += [(metadata.tag, verdict.right) for verdict in found]
        credits += [verdict.credit for verdict in found]
        if pictures is not None:
            keep(pictures / f"{index:05}", line, made.images)
        done(f"{len(verdicts)} judged")
    return Tally(by_task(verdicts), float(np.mean(credits)))


def by_task(verdicts: Sequence[tuple[str, bool]]) -> Score:
    """Right pictures by task, in GenEval's order; its score is the mean over the tasks."""
    tasks = [task for task in TASKS if any(task == tag for tag, _ in verdicts)]
    right = {task: sum(right for tag, right in verdicts if tag == task) for task in tasks}
    return Score(right, {task: sum(tag == task for tag, _ in verdicts) for task in tasks})


def keep(folder: Path, line: dict[str, Any], images: Sequence[Image.Image]) -> None:
    """One prompt's folder in GenEval's layout: `metadata.jsonl`, `samples/00000.png` and so on.

    Raises:
        OutputError, WorkError: a file cannot be written.
    """
    (folder / "samples").mkdir(parents=True)
    for number, image in enumerate(images):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        write_bytes(folder / "samples" / f"{number:05}.png", buffer.getvalue())
    write_bytes(folder / "metadata.jsonl", json.dumps(line).encode())
