"""`bench compare`: the runtime against the plain PyTorch pipeline, on the same noise, interleaved in one run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.metaquery import MetaqueryCheckpoint
from unipic2_edge.training.metaquery_pipeline import MetaqueryPipeline
from unipic2_edge.training.pipeline import DenoisingPipeline, KontextPipeline
from unipic2_edge.training.shapes.captions import evaluation_captions
from unipic2_edge.training.shapes.edits import evaluation_edits
from unipic2_edge.training.shapes.render import Picture, render

from .quality import PROMPT_SEED, Settings
from .statistics import Spread, ratios, spread

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Comparison:
    """Agreement and speed of one task.

    `latents_error` is the largest ‖a − b‖/‖b‖ of the final latents, `psnr` the smallest of the pictures' in dB
    (infinite where every pixel is equal); seconds are per picture, `ratio` is PyTorch's over the runtime's.
    """

    task: str
    latents_error: float
    psnr: float
    runtime_seconds: Spread
    pytorch_seconds: Spread
    ratio: Spread


def open_peer(checkpoint: Checkpoint) -> DenoisingPipeline:
    """The plain PyTorch pipeline of a checkpoint's variant.

    Raises:
        CheckpointError: a part is missing or damaged.
    """
    if isinstance(checkpoint, MetaqueryCheckpoint):
        return MetaqueryPipeline.load(checkpoint)
    return KontextPipeline(checkpoint)


def compare(
    pipeline: Pipeline, peer: DenoisingPipeline, settings: Settings, done: Callable[[str], None] = lambda name: None
) -> list[Comparison]:
    """Run both pipelines on `settings.prompts` prompts of each task, one picture at a time, turn and turn about.

    The first prompt of each task warms both up and is not timed.
    """
    captions = [caption.text for caption in evaluation_captions(settings.prompts + 1, settings.canvas, PROMPT_SEED)]
    edits = evaluation_edits(settings.prompts + 1, settings.canvas, PROMPT_SEED)
    sources = [render(edit.source) for edit in edits]
    return [
        _compare_task("generate", pipeline, peer, settings, captions, [None] * len(captions), done),
        _compare_task("edit", pipeline, peer, settings, [edit.text for edit in edits], sources, done),
    ]


def _compare_task(
    task: str,
    pipeline: Pipeline,
    peer: DenoisingPipeline,
    settings: Settings,
    prompts: list[str],
    sources: Sequence[Picture | None],
    done: Callable[[str], None],
) -> Comparison:
    ours: list[float] = []
    theirs: list[float] = []
    errors: list[float] = []
    qualities: list[float] = []
    for index, (prompt, source) in enumerate(zip(prompts, sources, strict=True)):
        noise = _noise(pipeline, settings, settings.seed + index)
        runtime = partial(_runtime, pipeline, prompt, source, noise, settings)
        pytorch = partial(_pytorch, peer, prompt, source, noise, settings)
        if index % 2:  # neither always runs in the other's wake
            made, seconds = _timed(runtime)
            expected, peer_seconds = _timed(pytorch)
        else:
            expected, peer_seconds = _timed(pytorch)
            made, seconds = _timed(runtime)
        done(f"{task} {index}")
        errors.append(float(np.linalg.norm(made[1] - expected[1]) / np.linalg.norm(expected[1])))
        qualities.append(psnr(made[0], expected[0]))
        if index:
            ours.append(seconds)
            theirs.append(peer_seconds)
    return Comparison(task, max(errors), min(qualities), spread(ours), spread(theirs), ratios(theirs, ours))


def _timed(work: Callable[[], tuple[Picture, Floats]]) -> tuple[tuple[Picture, Floats], float]:
    start = time.perf_counter()
    made = work()
    return made, time.perf_counter() - start


def _noise(pipeline: Pipeline, settings: Settings, seed: int) -> Floats:
    space = pipeline.manifest.latents
    shape = (1, space.channels, settings.height // space.factor, settings.width // space.factor)
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _runtime(
    pipeline: Pipeline, prompt: str, source: Picture | None, noise: Floats, settings: Settings
) -> tuple[Picture, Floats]:
    options = {"num_inference_steps": settings.steps, "guidance_scale": settings.guidance, "latents": noise}
    if source is None:
        made = pipeline.generate(prompt, **options)  # type: ignore[arg-type]
    else:
        made = pipeline.edit(Image.fromarray(source), prompt, **options)  # type: ignore[arg-type]
    return np.asarray(made.images[0]), made.latents


def _pytorch(
    peer: DenoisingPipeline, prompt: str, source: Picture | None, noise: Floats, settings: Settings
) -> tuple[Picture, Floats]:
    pictures, latents = peer(
        [prompt],
        torch.from_numpy(noise),
        None if source is None else [source],
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance,
    )
    return pictures[0], latents.numpy()


def psnr(picture: Picture, reference: Picture) -> float:
    """Peak signal-to-noise ratio of 8-bit pictures, in dB."""
    error = float(np.mean((picture.astype(np.float64) - reference.astype(np.float64)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
