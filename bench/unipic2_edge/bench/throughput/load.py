"""A load: so many pipelines of one bundle at work at once, each making batches of one size; the cores are shared."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from typing import Any

from unipic2_edge.runtime.pipeline import Pipeline

from ..latency.point import Point
from ..timed_requests import caption, edit_request


@dataclass(frozen=True)
class Load:
    """What is asked for.

    Attributes:
        point: the bundle, the task, the size, the steps.
        batch: pictures of one request.
        concurrency: requests at once, each in a pipeline of its own.
    """

    point: Point
    batch: int
    concurrency: int

    @property
    def name(self) -> str:
        """Unlike that of any other load of a sweep."""
        return f"{self.point.name}, batch {self.batch}, {self.concurrency} at once"

    def record(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return self.point.record() | {"name": self.name, "batch": self.batch, "concurrency": self.concurrency}


@dataclass(frozen=True)
class Burst:
    """One measurement: pictures made by all pipelines, seconds until the last one was there, seconds of each batch."""

    pictures: int
    seconds: float
    batches: tuple[float, ...]

    @property
    def per_second(self) -> float:
        """Pictures a second."""
        return self.pictures / self.seconds


def burst(pipelines: Sequence[Pipeline], load: Load, batches: int, number: int) -> Burst:
    """Have each of the load's pipelines make so many batches, all at once.

    Args:
        pipelines: at least as many as the load's concurrency.
        load: what is asked for.
        batches: of each pipeline.
        number: of the first prompt; every picture has one of its own.

    Raises:
        UserError: see `Pipeline`.
    """
    together = Barrier(load.concurrency)

    def work(worker: int) -> list[tuple[float, float]]:
        together.wait()
        return [
            _batch(pipelines[worker], load, number + (worker * batches + made) * load.batch) for made in range(batches)
        ]

    with ThreadPoolExecutor(load.concurrency, thread_name_prefix="burst") as threads:
        spans = [span for spans in threads.map(work, range(load.concurrency)) for span in spans]
    seconds = max(end for _, end in spans) - min(start for start, _ in spans)
    return Burst(load.batch * len(spans), seconds, tuple(end - start for start, end in spans))


def _batch(pipeline: Pipeline, load: Load, number: int) -> tuple[float, float]:
    """When a batch was begun, and when its pictures were there."""
    point, numbers = load.point, range(number, number + load.batch)
    options: dict[str, Any] = {
        "width": point.width,
        "height": point.height,
        "num_inference_steps": point.steps,
        "guidance_scale": point.guidance,
        "seed": list(numbers),
    }
    size = (point.width, point.height)
    requests = [edit_request(each, size) for each in numbers] if point.task == "edit" else []
    prompts = [caption(each) for each in numbers]
    start = time.perf_counter()
    if point.task == "edit":
        pipeline.edit([image for image, _ in requests], [words for _, words in requests], **options)
    else:
        pipeline.generate(prompts, **options)
    return start, time.perf_counter()
