"""One run of a point, timed from outside, and its stages as the pipeline tells them; what is left is the host's.

A session's `run` gives arrays in the host's memory, so every stage's time holds the device's work in it: nothing is
still under way when a clock is read, on GPUs either.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from PIL import Image

from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.runtime.result import Result

from ..roofline.calls import RecordingPool
from ..timed_requests import QUESTION, caption, edit_request, picture
from .point import Point

#: The pipeline's stages → what they are called here. Steps are timed one by one; checks are the host's.
_STAGES = {
    "tokenise": "tokenise",
    "text": "condition",
    "reference": "VAE encode",
    "modulation": "modulation",
    "decode": "VAE decode",
}
STEPS, HOST, TOTAL = "denoise steps", "host", "total"
#: In the order in which they come about.
ORDER = ("tokenise", "condition", "VAE encode", "modulation", STEPS, "VAE decode")
_LONGEST = 64  # tokens of an answer


@dataclass(frozen=True)
class Run:
    """Seconds of one run.

    Attributes:
        stages: in their order, `HOST` and `TOTAL` last; all but the last add up to it.
        steps: each step's.
        first: from the request to the end of the first step, or to the first token.
        waiting: for graphs to be opened, within the stages.
        graphs: in each graph, by name; what they leave of the total was spent outside them.
        tokens_per_second: after the first token; None where there is no second.
        processor: seconds of all threads of this process: on a machine that others use as well, what the clock cannot
            tell.
        made: the picture, for people.
        asked: for which words.
    """

    stages: dict[str, float]
    steps: tuple[float, ...]
    first: float
    waiting: float = 0.0
    graphs: dict[str, float] = field(default_factory=dict)
    tokens_per_second: float | None = None
    processor: float = 0.0
    made: Image.Image | None = None
    asked: str = ""

    @property
    def total(self) -> float:
        """From request to result."""
        return self.stages[TOTAL]


class Opened:
    """A bundle opened under one memory plan.

    Args:
        pipeline: of the bundle.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.inner, self._numbers = pipeline, count()
        self.pool = RecordingPool(pipeline.bundle, pipeline.sessions, shapes=False)
        self.pipeline = Pipeline(pipeline.bundle, self.pool, pipeline.placement)

    def run(self, point: Point) -> Run:
        """Do what the point asks for, with a prompt and a picture that it has not had lately.

        Raises:
            UserError: see `Pipeline`.
        """
        number = next(self._numbers)
        waited, self.pool.calls[:] = self.inner.sessions.seconds_waited, []
        made = self._answer(point, number) if point.task == "describe" else self._paint(point, number)
        graphs: dict[str, float] = {}
        for call in self.pool.calls:
            graphs[call.graph] = graphs.get(call.graph, 0.0) + (call.seconds or 0.0)
        waiting = self.inner.sessions.seconds_waited - waited
        return replace(made, waiting=waiting, graphs=graphs)

    def _paint(self, point: Point, number: int) -> Run:
        options: dict[str, Any] = {
            "width": point.width,
            "height": point.height,
            "num_inference_steps": point.steps,
            "guidance_scale": point.guidance,
            "seed": number,
        }
        image, words = edit_request(number, (point.width, point.height))
        prompt = caption(number)
        start, spent = time.perf_counter(), time.process_time()
        if point.task == "edit":
            result = self.pipeline.edit(image, words, **options)
        else:
            result = self.pipeline.generate(prompt, **options)
        total, spent = time.perf_counter() - start, time.process_time() - spent
        # The pipeline's own clock starts when the request is checked: what came before counts to the first step too.
        before = total - result.seconds["total"]
        first = before + (result.seconds_to_first_step or 0.0)
        asked = words if point.task == "edit" else prompt
        stages, steps = _stages(result, total), result.step_seconds
        return Run(stages, steps, first, processor=spent, made=result.images[0], asked=asked)

    def _answer(self, point: Point, number: int) -> Run:
        image = picture(number, (point.width, point.height))
        start, spent = time.perf_counter(), time.process_time()
        answer = self.pipeline.describe(image, QUESTION, max_new_tokens=_LONGEST)
        seen = time.perf_counter() - start
        _ = answer.text
        total, spent = time.perf_counter() - start, time.process_time() - spent
        to_first = answer.seconds if answer.seconds_to_first is None else answer.seconds_to_first
        rest = answer.seconds - to_first
        stages = {"see and tokenise": seen, "first token": to_first, "further tokens": rest}
        left = max(0.0, total - sum(stages.values()))
        rate = (answer.tokens - 1) / rest if answer.tokens > 1 and rest > 0 else None
        return Run({**stages, HOST: left, TOTAL: total}, (), seen + to_first, tokens_per_second=rate, processor=spent)


def _stages(result: Result, total: float) -> dict[str, float]:
    """The pipeline's stages by their names here, and what is left of the run."""
    found = {_STAGES[name]: seconds for name, seconds in result.seconds.items() if name in _STAGES}
    found[STEPS] = sum(result.step_seconds)
    ordered = {name: found[name] for name in ORDER if name in found}
    if "edit" not in {settings.task for settings in result.settings}:
        del ordered["VAE encode"]
    return {**ordered, HOST: total - sum(ordered.values()), TOTAL: total}
