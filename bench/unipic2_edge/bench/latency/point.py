"""A point of a sweep: one bundle under one memory plan, and what it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from unipic2_edge.runtime.bundle import Manifest
from unipic2_edge.runtime.errors import RequestError
from unipic2_edge.runtime.pictures import parse_size
from unipic2_edge.runtime.request import task_defaults

PICTURE_TASKS = ("generate", "edit")
TASKS = (*PICTURE_TASKS, "describe")


@dataclass(frozen=True)
class Point:
    """What is timed.

    Attributes:
        bundle: its label.
        memory: the device memory that may be used, as in "8GB"; None is what is free.
        task: one of `TASKS`.
        width: in pixels, of the picture that is made, or looked at.
        height: in pixels.
        steps: of the denoiser; None where there are none.
        guidance: the scale; None where there is none.
    """

    bundle: str
    memory: str | None
    task: str
    width: int
    height: int
    steps: int | None
    guidance: float | None

    @property
    def size(self) -> str:
        """As people write it."""
        return f"{self.width}x{self.height}"

    @property
    def name(self) -> str:
        """Unlike that of any other point of a sweep."""
        steps = "" if self.steps is None else f", {self.steps} steps"
        memory = "" if self.memory is None else f", {self.memory}"
        return f"{self.bundle}, {self.task} {self.size}{steps}{memory}"

    def record(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return {
            "name": self.name,
            "bundle": self.bundle,
            "memory": self.memory,
            "task": self.task,
            "size": self.size,
            "steps": self.steps,
            "guidance": self.guidance,
        }


@dataclass(frozen=True)
class Sweep:
    """What is varied; nothing given is the bundle's own."""

    tasks: Sequence[str] = ()
    sizes: Sequence[str] = ()
    steps: Sequence[int] = ()
    memory: Sequence[str] = ()
    guidance: float | None = None

    def points(self, manifests: Mapping[str, Manifest]) -> list[Point]:
        """All points, those of one bundle and memory plan together.

        Args:
            manifests: of the bundles, by label.

        Raises:
            RequestError: an unknown task, one that a bundle cannot do, a size that is none, steps below 1.
        """
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown:
            raise RequestError(f"there is no task {unknown[0]!r}", f"use some of {', '.join(TASKS)}")
        if any(steps < 1 for steps in self.steps):
            raise RequestError(f"{min(self.steps)} steps make no picture", "use 1 or more --steps")
        return [
            point
            for (label, manifest), memory in product(manifests.items(), self.memory or (None,))
            for task in self.tasks or _tasks_of(manifest)
            for point in self._points(label, manifest, memory, task)
        ]

    def _points(self, label: str, manifest: Manifest, memory: str | None, task: str) -> Iterator[Point]:
        if task == "describe" and manifest.query is None:
            raise RequestError(f"{label} cannot describe", "leave describe out of --tasks")
        default = task_defaults(manifest, "edit" if task == "edit" else "generate")
        sizes = [parse_size(size) for size in self.sizes] or [(default.width, default.height)]
        if task == "describe":
            yield from (Point(label, memory, task, *size, None, None) for size in sizes)
            return
        guidance = default.guidance_scale if self.guidance is None else self.guidance
        for size, steps in product(sizes, self.steps or (default.num_inference_steps,)):
            yield Point(label, memory, task, *size, steps, guidance)


def _tasks_of(manifest: Manifest) -> list[str]:
    """Everything that the bundle can do."""
    made = [task for task in PICTURE_TASKS if task in manifest.defaults]
    return [*made, *(["describe"] if manifest.query is not None else [])]
