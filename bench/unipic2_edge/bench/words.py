"""`bench words`: what a second look at a picture saves, and how fast answers come; the runtime and PyTorch by turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from unipic2_edge.runtime.answer import Answer
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.training.metaquery.pipeline import MetaqueryPipeline
from unipic2_edge.training.shapes.edits import evaluation_edits
from unipic2_edge.training.shapes.render import Picture, render

from .quality import PROMPT_SEED, Settings
from .statistics import ratios, spread

_INSTRUCTIONS = ("make the largest shape blue", "remove the shape on the left")
_QUESTIONS = ("describe the image.", "what is the background color?")
_LONGEST = 32  # tokens of an answer

#: What is measured, in the order of a picture's round; seconds but for the rate.
FIGURES = {
    "first edit, condition stage": "s",
    "first edit, whole": "s",
    "second edit, condition stage": "s",
    "second edit, whole": "s",
    "first question, to the first token": "s",
    "second question, to the first token": "s",
    "tokens after the first": "1/s",
}


@dataclass
class Words:
    """Samples of every figure, of the runtime and of PyTorch, picture by picture."""

    ours: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in FIGURES})
    theirs: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in FIGURES})
    same_tokens: int = 0
    answers: int = 0


def measure_words(
    pipeline: Pipeline, peer: MetaqueryPipeline, settings: Settings, done: Callable[[str], None] = lambda name: None
) -> Words:
    """Look at `settings.prompts` pictures twice each, with both; one more before them warms both up.

    Args:
        pipeline: of a MetaQuery bundle.
        peer: of the checkpoint that it was made from.
        settings: how edits are made.
        done: called after every picture.
    """
    found = Words()
    for index, edit in enumerate(evaluation_edits(settings.prompts + 1, settings.canvas, PROMPT_SEED)):
        picture = render(edit.source)
        turns = [lambda: _runtime(pipeline, picture, settings), lambda: _pytorch(peer, picture, settings)]  # noqa: B023
        (ours, said), (theirs, expected) = (turns[0](), turns[1]()) if index % 2 else (turns[1](), turns[0]())[::-1]
        if index:
            for name in FIGURES:
                found.ours[name].append(ours[name])
                found.theirs[name].append(theirs[name])
            found.answers += len(said)
            found.same_tokens += sum(a == b for a, b in zip(said, expected, strict=True))
        done(f"picture {index}")
    return found


def words_record(found: Words) -> dict[str, object]:
    """The report's figures: each with its unit, both spreads, and the runtime's advantage."""
    record: dict[str, object] = {"answers": found.answers, "answers_token_for_token": found.same_tokens}
    for name, unit in FIGURES.items():
        ours, theirs = found.ours[name], found.theirs[name]
        gain = ratios(theirs, ours) if unit == "s" else ratios(ours, theirs)
        record[name] = {
            "unit": unit,
            "runtime": spread(ours).to_dict(),
            "pytorch": spread(theirs).to_dict(),
            "speedup": gain.to_dict(),
        }
    again = ratios(found.ours["first edit, condition stage"], found.ours["second edit, condition stage"])
    return record | {"second look, condition stage": again.to_dict()}


def words_lines(found: Words) -> list[str]:
    """The figures for people."""
    lines = []
    for name, unit in FIGURES.items():
        ours, theirs = spread(found.ours[name]), spread(found.theirs[name])
        gain = (
            ratios(found.theirs[name], found.ours[name])
            if unit == "s"
            else ratios(found.ours[name], found.theirs[name])
        )
        shown = [_shown(sample.median, unit) for sample in (ours, theirs)]
        lines.append(
            f"{name}: {shown[0]}, PyTorch {shown[1]}: {gain.median:.2f}x (quartiles {gain.low:.2f}-{gain.high:.2f})"
        )
    return [*lines, f"answers equal token for token: {found.same_tokens} of {found.answers}"]


def _shown(value: float, unit: str) -> str:
    return f"{value * 1000:.1f} ms" if unit == "s" else f"{value:.0f} tokens/s"


def _runtime(pipeline: Pipeline, picture: Picture, settings: Settings) -> tuple[dict[str, float], list[str]]:
    image, figures = Image.fromarray(picture), {}
    for count, instruction in zip(("first", "second"), _INSTRUCTIONS, strict=True):
        made = pipeline.edit(
            image,
            instruction,
            seed=settings.seed,
            negative_prompt="",
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
        )
        figures[f"{count} edit, condition stage"] = made.seconds["text"]
        figures[f"{count} edit, whole"] = made.seconds["total"]
    answers: list[Answer] = []
    for count, question in zip(("first", "second"), _QUESTIONS, strict=True):
        start = time.perf_counter()
        answer = pipeline.describe(image, question, max_new_tokens=_LONGEST)
        seeing = time.perf_counter() - start  # the picture is prepared before the answer's own clock starts
        answers.append(answer)
        _ = answer.text
        figures[f"{count} question, to the first token"] = seeing + (answer.seconds_to_first or answer.seconds)
    figures["tokens after the first"] = _rate(answers[0].tokens, answers[0].seconds_to_first or 0, answers[0].seconds)
    return figures, [answer.text for answer in answers]


class _Clock:
    """A streamer of transformers' that notes when tokens come."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.seconds: list[float] = []
        self._prompt = True

    def put(self, tokens: Any) -> None:
        """The prompt first, then every token."""
        if not self._prompt:
            self.seconds.append(time.perf_counter() - self.start)
        self._prompt = False

    def end(self) -> None:
        """Nothing is left to do."""


def _pytorch(peer: MetaqueryPipeline, picture: Picture, settings: Settings) -> tuple[dict[str, float], list[str]]:
    figures = {}
    shape = (1, peer.vae.config.latent_channels, settings.height // _factor(peer), settings.width // _factor(peer))
    noise = torch.from_numpy(np.random.default_rng(settings.seed).standard_normal(shape, dtype=np.float32))
    for count, instruction in zip(("first", "second"), _INSTRUCTIONS, strict=True):
        start = time.perf_counter()
        with torch.inference_mode():
            peer.condition(["", instruction], [picture] * 2)
        figures[f"{count} edit, condition stage"] = time.perf_counter() - start
        start = time.perf_counter()
        peer([instruction], noise, [picture], "", settings.steps, settings.guidance)
        figures[f"{count} edit, whole"] = time.perf_counter() - start
    texts = []
    for count, question in zip(("first", "second"), _QUESTIONS, strict=True):
        clock, text = _generated(peer, picture, question)
        texts.append(text)
        figures[f"{count} question, to the first token"] = clock.seconds[0]
        if count == "first":
            figures["tokens after the first"] = _rate(len(clock.seconds), clock.seconds[0], clock.seconds[-1])
    return figures, texts


@torch.inference_mode()
def _generated(peer: MetaqueryPipeline, picture: Picture, question: str) -> tuple[_Clock, str]:
    """transformers' own `generate`, from the picture on."""
    querying, clock = peer.conditioner.querying, _Clock()
    patches, grid = querying.sight.patches([picture])
    ids = torch.tensor([querying.chat.prompt(question, querying.sight.tokens(grid), system=True)])
    made = querying.qwen.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == querying.chat.image_id).int(),
        pixel_values=patches,
        image_grid_thw=torch.tensor([[1, *grid]]),
        max_new_tokens=_LONGEST,
        do_sample=False,
        streamer=clock,
    )
    text: str = querying.chat.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
    return clock, text


def _factor(peer: MetaqueryPipeline) -> int:
    return int(2 ** (len(peer.vae.config.block_out_channels) - 1))


def _rate(tokens: int, first: float, last: float) -> float:
    """Tokens a second after the first; 0 where there is no other."""
    return (tokens - 1) / (last - first) if last > first else 0.0
