"""What a pipeline hands back: pictures, and all that is needed to make and to time them again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .bundle import Manifest
from .request import Request
from .settings import PictureSettings


@dataclass(frozen=True)
class Result:
    """One batch of pictures.

    `latents` [n, C, h, w] are the final ones (scaled), `settings` one record a picture, `seconds` the time of
    each stage and of the whole, `steps_done` fewer than asked for when a callback interrupted.

    A stage's time is all of it: a session's `run` returns when its outputs are in the host's memory, on a GPU too.
    `step_seconds` are those of each step without the caller's callback, and the first of them was done
    `seconds_to_first_step` after the work began.
    """

    images: list[Image.Image]
    latents: NDArray[np.float32]
    seeds: tuple[int, ...] | None
    settings: list[PictureSettings]
    seconds: dict[str, float]
    steps_done: int
    step_seconds: tuple[float, ...] = ()
    seconds_to_first_step: float | None = None


@dataclass
class Stopwatch:
    """Seconds of named stages, of laps one by one, and since the stopwatch was made."""

    seconds: dict[str, float] = field(default_factory=dict)
    laps: list[float] = field(default_factory=list)
    seconds_to_first_lap: float | None = None
    _start: float = field(default_factory=lambda: time.perf_counter())

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    @contextmanager
    def lap(self) -> Iterator[None]:
        """Note the time of the block by itself."""
        start = time.perf_counter()
        yield
        end = time.perf_counter()
        self.laps.append(end - start)
        if self.seconds_to_first_lap is None:
            self.seconds_to_first_lap = end - self._start

    def total(self) -> dict[str, float]:
        """The stages, and `total`."""
        return {**self.seconds, "total": time.perf_counter() - self._start}


def settings_of(request: Request, manifest: Manifest) -> list[PictureSettings]:
    """The settings of each picture that a request makes on a bundle."""
    return [
        PictureSettings(
            task=request.task,
            prompt=request.prompts[row],
            negative_prompt=request.negative_prompts[row],
            width=request.width,
            height=request.height,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            seed=None if request.seeds is None else request.seeds[row],
            reference=request.reference,
            bundle=manifest.name,
            source=manifest.source.sha256,
            recipe=manifest.recipe,
        )
        for row in range(request.count)
    ]
