"""The pipeline: a bundle opened, prompts and pictures in, pictures out.

    pipeline = Pipeline.load("my-bundle")
    pipeline.generate("a red circle", seed=7).images[0].save("circle.png")
    pipeline.edit("circle.png", "make the circle blue").images[0]

Argument names are diffusers'. Engines compute; tokens, noise, schedule, guidance and geometry are numpy here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .autoencoder import Autoencoder
from .bundle import Bundle
from .conditioning import TEXT_GRAPHS, TextConditioner
from .denoising import Denoising
from .errors import RequestError, WorkError
from .grid import Grid
from .images import Picture, open_images, to_array, to_pictures
from .memory_plan import parse_memory
from .noise import initial_latents, reference_noise
from .opening import open_pool
from .patches import PositionTable, open_positions, patchify, unpatchify
from .placement import Placement, place
from .pool import SessionPool
from .request import (
    MAX_THREADS,
    Options,
    Request,
    check_latents,
    make_request,
    pick_edit_size,
    pick_prompts,
    pick_size,
    task_defaults,
)
from .result import Result, Stopwatch, settings_of
from .scheduler import FlowMatchEuler, euler_step
from .settings import Reference
from .tokens import open_text, open_tokenizers

Floats = NDArray[np.float32]
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
        self._autoencoder = Autoencoder(sessions, self.manifest.latents)
        self._grid = Grid(self.manifest.latents)

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
        size = pick_size(height, width, latents, self._grid.factor, (default.width, default.height))
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
            target = pick_size(height, width, latents, self._grid.factor, pictures[0].size)
        options = Options(negative_prompt, num_inference_steps, guidance_scale, seed, latents, reference)
        request = make_request(self.manifest, "edit", prompts, target, options)
        return self._run(request, [picture.resize(target) for picture in pictures], callback_on_step_end)

    def decode(self, latents: NDArray[np.float32]) -> list[Image.Image]:
        """Latents [n, C, h, w] as a callback gets them → pictures: a preview of what is being made.

        Raises:
            BundleError, WorkError: as in `generate`.
        """
        return to_pictures(self._autoencoder.decode(latents))

    def _run(self, request: Request, pictures: list[Image.Image] | None, callback: StepCallback | None) -> Result:
        """Text → (reference →) sampling → decoding; every stage timed."""
        self.interrupt = False
        watch = Stopwatch()
        with watch.stage("check"):
            sigmas = self._scheduler.sigmas(request.num_inference_steps, self._grid.tokens(request))
            positions = self._positions.crop(*self._grid.patches(request))
            self._conditioner.check(dict.fromkeys(request.rows))
            self.sessions.open_ahead(_graphs(editing=pictures is not None))
        distinct = list(dict.fromkeys(request.rows))
        with watch.stage("text"):
            conditioning = self._conditioner(distinct)
        with watch.stage("reference"):
            reference = None if pictures is None else self._reference(request, pictures)
        with watch.stage("modulation"):
            denoising = Denoising(
                self.sessions,
                conditioning,
                [distinct.index(prompt) for prompt in request.rows],
                self._scheduler.timesteps(sigmas),
                positions,
                request.count,
                request.guidance_scale,
                reference,
            )
        with watch.stage("denoise"):
            latents, steps_done = self._sample(request, denoising, sigmas, callback)
        with watch.stage("decode"):
            images = self.decode(latents)
        return Result(images, latents, request.seeds, settings_of(request, self.manifest), watch.total(), steps_done)

    def _sample(
        self, request: Request, denoising: Denoising, sigmas: Floats, callback: StepCallback | None
    ) -> tuple[Floats, int]:
        """From noise to latents [n, C, h, w], packed as patches all the way; and the number of steps done."""
        patch = self.manifest.latents.patch_size
        patches = patchify(self._initial(request), patch)  # [n, N, C·p·p]
        timesteps, step = self._scheduler.timesteps(sigmas), 0
        for step in range(request.num_inference_steps):
            velocity = denoising.velocity(step, patches)
            denoised = patches - sigmas[step] * velocity if callback is not None else None  # x0 = x − σ·v
            patches = euler_step(patches, velocity, sigmas[step], sigmas[step + 1])
            if callback is not None and denoised is not None:
                latents, clean = (
                    unpatchify(values, patch, *self._grid.latent_size(request)) for values in (patches, denoised)
                )
                changed = callback(self, step, float(timesteps[step]), {"latents": latents, "denoised": clean})
                if changed and changed.get("latents") is not None:
                    patches = patchify(check_latents(changed["latents"], *latents.shape[:2]), patch)
            if self.interrupt:
                break
        if not np.isfinite(patches).all():
            raise WorkError(
                "the model's numbers overflowed; there is no picture", "use a bundle with a higher precision"
            )
        return unpatchify(patches, patch, *self._grid.latent_size(request)), step + 1

    def _initial(self, request: Request) -> Floats:
        if request.latents is not None:
            return request.latents
        shape = (self.manifest.latents.channels, *self._grid.latent_size(request))
        return initial_latents(request.seeds or (), shape)

    def _reference(self, request: Request, pictures: list[Image.Image]) -> Floats:
        """The encoded pictures as patches [1 or n, N, C·p·p]."""
        noise = None
        if request.reference == "sample":
            shape = (self.manifest.latents.channels, *self._grid.latent_size(request))
            noise = np.stack([reference_noise(seed, shape) for seed in request.seeds or ()])
        latents = self._autoencoder.encode(np.concatenate([to_array(picture) for picture in pictures]), noise)
        return patchify(latents, self.manifest.latents.patch_size)

    @cached_property
    def _scheduler(self) -> FlowMatchEuler:
        return FlowMatchEuler.from_json(self.bundle.read(self.manifest.scheduler))

    @cached_property
    def _positions(self) -> PositionTable:
        return open_positions(self.bundle)

    @cached_property
    def _conditioner(self) -> TextConditioner:
        return TextConditioner(open_tokenizers(self.bundle), self.sessions, open_text(self.bundle).context_dim)


def _graphs(*, editing: bool) -> list[str]:
    """The graphs a task needs, in the order in which it needs them."""
    return [*TEXT_GRAPHS, *(["vae_encoder"] if editing else []), "modulation", "denoiser", "vae_decoder"]
