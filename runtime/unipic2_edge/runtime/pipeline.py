"""The pipeline: a bundle opened, prompts and pictures in, pictures or words out.

    pipeline = Pipeline.load("my-bundle")
    pipeline.generate("a red circle", seed=7).images[0].save("circle.png")
    pipeline.edit("circle.png", "make the circle blue").images[0]
    for word in pipeline.describe("circle.png", "what color is it?"): ...

Argument names are diffusers'. Engines compute; tokens, noise, schedule, guidance and geometry are numpy in the modules
beside this one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .answer import Answer
from .bundle import Bundle
from .conditioning import Conditioner, TextConditioner
from .errors import RequestError
from .images import Picture, open_images
from .memory_plan import parse_memory
from .opening import open_pool
from .painting import Painter
from .placement import Placement, one_by_one, place
from .pool import SessionPool
from .request import (
    MAX_THREADS,
    Options,
    Request,
    make_request,
    pick_edit_size,
    pick_prompts,
    pick_size,
    task_defaults,
)
from .result import Result
from .settings import Reference
from .tokens import open_text, open_tokenizers

if TYPE_CHECKING:
    from .qwen.opening import Qwen

#: (pipeline, step, timestep, {"latents": [n, C, h, w], "denoised": the same without the noise that the model sees in
#: them}) → None, or a dict whose "latents" replace them.
StepCallback = Callable[["Pipeline", int, float, dict[str, Any]], "dict[str, Any] | None"]


class Pipeline:
    """Generation and editing on one bundle; make it with `Pipeline.load`.

    A callback stops the work by setting `pipeline.interrupt = True`: what stands is decoded and returned.
    One pipeline serves one call at a time.
    """

    def __init__(self, bundle: Bundle, sessions: SessionPool, placement: Placement | None = None) -> None:
        self.bundle, self.sessions, self.placement = bundle, sessions, placement
        self.manifest = bundle.manifest
        self.interrupt = False
        self._planned = sessions.turns
        self._painter = Painter(bundle, sessions)

    @classmethod
    def load(
        cls,
        bundle: Path | str,
        device: str = "auto",
        threads: int | None = None,
        memory: str | int | None = None,
        fallback: bool = False,
    ) -> Pipeline:
        """Open a bundle; its graphs are opened when they are first needed.

        Args:
            bundle: the folder that `unipic2-edge export` wrote.
            device: "auto", "cpu", "gpu", "gpu:1" or "cuda", see `place`.
            threads: CPU threads; None takes one per physical core.
            memory: device memory that may be used, in bytes or as in "8GB"; None is what is free.
            fallback: whether the processor may serve when the engines do not fit the GPU.

        Raises:
            BundleError: not a bundle, or damaged.
            RequestError: no such device, no engine for it, too little memory, no such number of threads.
        """
        if threads is not None and not 1 <= threads <= MAX_THREADS:
            raise RequestError(f"{threads} threads cannot work", f"use 1 to {MAX_THREADS}")
        budget = parse_memory(memory) if isinstance(memory, str) else memory
        opened = Bundle(bundle)
        placement = place(opened, device, fallback)
        return cls(opened, open_pool(opened, placement, threads, budget), placement)

    def explain(self) -> list[str]:
        """Where it runs: the device, the engine of each graph, and why, as lines."""
        return [] if self.placement is None else self.placement.lines()

    def close(self) -> None:
        """Give all memory back; the next call takes it again."""
        self.sessions.close()

    def stage(self, on: bool) -> None:
        """Give all memory back; from now on hold one graph at a time (slow, the least memory), or as planned again."""
        self.sessions.take_turns(one_by_one(self.manifest) if on else self._planned)

    @property
    def most_pictures(self) -> int | None:
        """How many pictures its engines make at once, at most; more are made in turns. None where there is no limit."""
        return None if self.placement is None else self.placement.pictures

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | Sequence[int] | None = None,
        num_images: int = 1,
        latents: NDArray[Any] | None = None,
        callback_on_step_end: StepCallback | None = None,
    ) -> Result:
        """Make pictures from words; what is not given is the bundle's default.

        Args:
            prompt: one prompt, or several (one batch).
            negative_prompt: what to lead away from; may be empty; one, or one for each picture.
            height: in pixels.
            width: in pixels.
            num_inference_steps: Euler steps.
            guidance_scale: classifier-free guidance; 1 or less runs none, in half the time.
            seed: of the first picture, the next ones count up; or one for each picture; None draws one.
            num_images: pictures for each prompt.
            latents: initial noise [n, C, h, w] instead of a seed.
            callback_on_step_end: called after each step, see `StepCallback`.

        Raises:
            RequestError: empty or over-long prompt, a size off the grid, a value out of range.
            BundleError: a component is missing or damaged.
            WorkError: the backend failed, or the numbers overflowed.
        """
        default = task_defaults(self.manifest, "generate")
        size = pick_size(height, width, latents, self.manifest.latents.factor, (default.width, default.height))
        options = Options(negative_prompt, num_inference_steps, guidance_scale, seed, latents)
        request = make_request(self.manifest, "generate", pick_prompts(prompt, num_images), size, options)
        return self._run(request, None, callback_on_step_end)

    def edit(
        self,
        image: Picture | Sequence[Picture],
        instruction: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] | None = None,
        size: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | Sequence[int] | None = None,
        num_images: int = 1,
        latents: NDArray[Any] | None = None,
        reference: Reference = "mode",
        callback_on_step_end: StepCallback | None = None,
    ) -> Result:
        """Change pictures as told; what is not given is the bundle's default.

        Args:
            image: the picture, or one for each instruction.
            instruction: what to change, or several instructions (one batch).
            negative_prompt: as in `generate`.
            size: the longer edge in pixels; the other follows the picture's shape, in multiples of 32.
            height: in pixels, together with `width`, instead of `size`.
            width: in pixels.
            num_inference_steps: as in `generate`.
            guidance_scale: as in `generate`.
            seed: as in `generate`.
            num_images: pictures for each instruction.
            latents: as in `generate`.
            reference: "mode" takes the mode of the encoded picture, the same whatever the seed; "sample"
                draws from the posterior with the seed, as the released script does.
            callback_on_step_end: as in `generate`.

        Raises:
            ImageError: the picture cannot be read.
            RequestError, BundleError, WorkError: as in `generate`.
        """
        if reference not in ("mode", "sample"):
            raise RequestError(f"there is no reference {reference!r}", "use mode or sample")
        if reference == "sample" and latents is not None:
            raise RequestError("a sampled reference needs a seed, and latents have none", 'use reference="mode"')
        prompts = pick_prompts(instruction, num_images)
        pictures = open_images(image, len(prompts), num_images)
        if size is not None or (height is None and width is None and latents is None):
            target = pick_edit_size(self.manifest, [picture.size for picture in pictures], size)
        else:
            target = pick_size(height, width, latents, self.manifest.latents.factor, pictures[0].size)
        options = Options(negative_prompt, num_inference_steps, guidance_scale, seed, latents, reference)
        request = make_request(self.manifest, "edit", prompts, target, options)
        return self._run(request, [picture.resize(target) for picture in pictures], callback_on_step_end)

    def describe(
        self,
        image: Picture | Sequence[Picture] | None = None,
        question: str = "",
        *,
        system: str | None = None,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
    ) -> Answer:
        """Answer in words, which come as the answer is iterated over; it must end before the pipeline's next call.

        Args:
            image: what the question is about: a picture, several, or none.
            question: without one the picture is described.
            system: the system prompt, in place of the chat template's own; empty for none.
            max_new_tokens: of the answer, at most.
            temperature: 0 always takes the likeliest token.
            top_p: draw among the fewest tokens that have this probability together.
            top_k: draw among so many tokens; 0 among all.
            repetition_penalty: above 1 makes what was said less likely.
            seed: of what is drawn.

        Raises:
            ImageError: a picture cannot be read.
            RequestError: neither words nor a picture, words that do not fit, a number out of range.
            BundleError: the bundle has no language model.
        """
        from .qwen.sampling import SamplingSettings

        sampling = SamplingSettings(
            temperature=temperature, top_p=top_p, top_k=top_k, repetition_penalty=repetition_penalty, seed=seed
        )
        pictures = () if image is None else (image,) if isinstance(image, Picture) else tuple(image)
        answer = self._qwen.answer(question, pictures, sampling, max_new_tokens, system)
        self.sessions.open_ahead(self._qwen.graphs(seeing=bool(pictures)))
        return answer

    def decode(self, latents: NDArray[np.float32]) -> list[Image.Image]:
        """Latents [n, C, h, w] as a callback gets them → pictures: a preview of what is being made.

        Raises:
            BundleError, WorkError: as in `generate`.
        """
        return self._painter.decode(latents)

    def _run(self, request: Request, pictures: list[Image.Image] | None, callback: StepCallback | None) -> Result:
        """Paint, with the caller's callback after every step."""
        self.interrupt = False

        def after(step: int, timestep: float, values: dict[str, Any]) -> dict[str, Any] | None:
            return callback(self, step, timestep, values) if callback is not None else None

        watched = None if callback is None else after
        return self._painter.paint(request, pictures, self._conditioner, watched, lambda: self.interrupt)

    @cached_property
    def _conditioner(self) -> Conditioner:
        if self.manifest.query is not None:
            return self._qwen.conditioner
        return TextConditioner(open_tokenizers(self.bundle), self.sessions, open_text(self.bundle).context_dim)

    @cached_property
    def _qwen(self) -> Qwen:
        from .qwen.language import InPlaceLanguageModel
        from .qwen.opening import open_qwen

        in_place = self.placement is not None and InPlaceLanguageModel.graph in self.placement.choices
        return open_qwen(self.bundle, self.sessions, in_place)
