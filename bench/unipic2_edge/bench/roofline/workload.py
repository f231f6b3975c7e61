"""What is run: one task of a bundle at one size; the prompt's words do not matter to the time."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from unipic2_edge.runtime.bundle import Manifest
from unipic2_edge.runtime.errors import RequestError
from unipic2_edge.runtime.pictures import parse_size
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.runtime.request import task_defaults
from unipic2_edge.runtime.settings import Task

_PROMPTS = {"generate": "two red squares and a blue ring", "edit": "make the circle blue"}


@dataclass(frozen=True)
class Workload:
    """One picture's request.

    Attributes:
        task: "generate" or "edit".
        width: in pixels.
        height: in pixels.
        steps: of the denoiser.
        guidance: the scale; above 1 every step runs two rows.
        pictures: in one batch.
    """

    task: Task
    width: int
    height: int
    steps: int
    guidance: float
    pictures: int = 1

    def run(self, pipeline: Pipeline) -> float:
        """Make the pictures; the seconds that the pipeline counted.

        Raises:
            UserError: see `Pipeline.generate`.
        """
        prompt = _PROMPTS[self.task]
        if self.task == "generate":
            result = pipeline.generate(
                prompt,
                height=self.height,
                width=self.width,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                num_images=self.pictures,
                seed=0,
            )
        else:
            result = pipeline.edit(
                Image.new("RGB", (self.width, self.height), (120, 120, 120)),
                prompt,
                height=self.height,
                width=self.width,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                num_images=self.pictures,
                seed=0,
            )
        return result.seconds["total"]


def make_workload(
    manifest: Manifest, task: Task, size: str | None, steps: int | None, guidance: float | None, pictures: int
) -> Workload:
    """A task with the bundle's defaults for what is not given.

    Raises:
        RequestError: a number out of range, or a size that is none.
    """
    if pictures < 1 or (steps is not None and steps < 1):
        raise RequestError("a workload of nothing has no limits", "give 1 or more --steps and --pictures")
    default = task_defaults(manifest, task)
    width, height = (default.width, default.height) if size is None else parse_size(size)
    scale = default.guidance_scale if guidance is None else guidance
    return Workload(task, width, height, steps or default.num_inference_steps, scale, pictures)
