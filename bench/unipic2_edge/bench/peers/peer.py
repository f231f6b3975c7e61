"""What a peer is: something that makes a picture or a denoising step of the same words and the same noise.

This module and `guest.py` travel into other interpreters: they import nothing but the standard library and numpy.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

GENERATE, EDIT, STEP = "generate", "edit", "step"
TASKS = (GENERATE, EDIT, STEP)
#: The timestep of a denoising step, of 1000.
TIMESTEP = 800.0


class CannotError(Exception):
    """A peer says what it could not do, and why; it is a result, and no failure of the benchmark."""


@dataclass(frozen=True)
class Job:
    """One piece of work, the same for every peer.

    Attributes:
        task: `generate`, `edit` or `step`.
        latents: initial noise [1, C, h, w]; of a step both guidance branches' latents [2, C, h, w].
        prompt: the words, or the instruction.
        source: the picture to edit [H, W, 3].
        steps: Euler steps.
        guidance: of classifier-free guidance, with an empty negative prompt.
        seed: what torch's generator on a processor drew the noise from; for peers that take no noise.
        factor: image pixels for each latent pixel.
        context: of a step, [2, L, J].
        pooled: of a step, [2, P].
    """

    task: str
    latents: Floats
    prompt: str = ""
    source: Pixels | None = None
    steps: int = 1
    guidance: float = 1.0
    seed: int = 0
    factor: int = 8
    context: Floats | None = None
    pooled: Floats | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        height, width = self.latents.shape[-2:]
        return width * self.factor, height * self.factor

    @property
    def told(self) -> tuple[Floats, Floats]:
        """A step's context and pooled text.

        Raises:
            CannotError: the job is no step.
        """
        if self.context is None or self.pooled is None:
            raise CannotError("the job is no denoising step")
        return self.context, self.pooled


@dataclass(frozen=True)
class Made:
    """What a peer made: a picture [H, W, 3] with its final latents [1, C, h, w], or a step's velocity [2, C, h, w].

    `latents` is none for peers that do not give theirs away.
    """

    latents: Floats | None = None
    picture: Pixels | None = None


class Peer(ABC):
    """Loaded, and ready to work; its module has `open_peer(settings)`, which loads it.

    Attributes:
        clock: what its work is timed by, in seconds.
    """

    clock: Callable[[], float] = staticmethod(time.perf_counter)

    @abstractmethod
    def make(self, job: Job) -> Made:
        """Do one job.

        Raises:
            CannotError: it cannot do this one.
        """

    def about(self) -> Mapping[str, str]:
        """What stands beside its figures: versions of libraries, the device."""
        return {}

    def close(self) -> None:
        """Give its memory back."""
        return


def refuse(job: Job, able: tuple[str, ...], why: str) -> None:
    """Say that a task is not among those that a peer is able to do.

    Raises:
        CannotError: it is not.
    """
    if job.task not in able:
        raise CannotError(f"{job.task}: {why}")
