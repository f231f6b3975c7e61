"""How a picture comes about: what is told, the reference, the steps from noise to latents, the decoding; all timed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .autoencoder import Autoencoder
from .bundle import Bundle
from .conditioning import Conditioner
from .denoising import Denoising
from .errors import WorkError
from .grid import Grid
from .images import to_array, to_pictures
from .noise import initial_latents, reference_noise
from .patches import PositionTable, open_positions, patchify, unpatchify
from .pool import SessionPool
from .request import Request, check_latents
from .result import Result, Stopwatch, settings_of
from .scheduler import FlowMatchEuler, euler_step

Floats = NDArray[np.float32]
#: (step, timestep, {"latents": [n, C, h, w], "denoised": the same without noise}) → None, or a dict whose "latents"
#: replace them.
AfterStep = Callable[[int, float, dict[str, Any]], "dict[str, Any] | None"]


class Painter:
    """Checked requests → pictures, on a bundle's denoiser and autoencoder.

    Args:
        bundle: the opened bundle.
        sessions: its graphs.
    """

    def __init__(self, bundle: Bundle, sessions: SessionPool) -> None:
        self._bundle, self._sessions, self._manifest = bundle, sessions, bundle.manifest
        self._autoencoder = Autoencoder(sessions, self._manifest.latents)
        self._grid = Grid(self._manifest.latents)

    def paint(
        self,
        request: Request,
        pictures: list[Image.Image] | None,
        conditioner: Conditioner,
        after: AfterStep | None,
        stopped: Callable[[], bool],
    ) -> Result:
        """Text → (reference →) sampling → decoding.

        Args:
            request: what to make.
            pictures: to edit: one, or one for each picture that is made; in the result's size.
            conditioner: of prompts and pictures.
            after: called after every step.
            stopped: asked after every step; what stands then is decoded.

        Raises:
            RequestError: a prompt is too long.
            BundleError, WorkError: a graph is missing or failed, or the numbers overflowed.
        """
        watch = Stopwatch()
        with watch.stage("check"):
            sigmas = self._scheduler.sigmas(request.num_inference_steps, self._grid.tokens(request))
            positions = self._positions.crop(*self._grid.patches(request))
        with watch.stage("tokenise"):
            turns = conditioner.turns(request.rows, _by_row(request, pictures))
        with watch.stage("check"):
            self._sessions.open_ahead(_graphs(conditioner, editing=pictures is not None))
        distinct = list(dict.fromkeys(turns))
        with watch.stage("text"):
            conditioning = conditioner(distinct)
        with watch.stage("reference"):
            reference = None if pictures is None else self._reference(request, pictures)
        with watch.stage("modulation"):
            denoising = Denoising(
                self._sessions,
                conditioning,
                [distinct.index(turn) for turn in turns],
                self._scheduler.timesteps(sigmas),
                positions,
                request.count,
                request.guidance_scale,
                reference,
            )
        with watch.stage("denoise"):
            latents, steps_done = self._sample(request, denoising, sigmas, watch, after, stopped)
        with watch.stage("decode"):
            images = self.decode(latents)
        return Result(
            images,
            latents,
            request.seeds,
            settings_of(request, self._manifest),
            watch.total(),
            steps_done,
            tuple(watch.laps),
            watch.seconds_to_first_lap,
        )

    def decode(self, latents: Floats) -> list[Image.Image]:
        """Latents [n, C, h, w] → pictures.

        Raises:
            BundleError, WorkError: the decoder is missing or failed.
        """
        return to_pictures(self._autoencoder.decode(latents))

    def _sample(
        self,
        request: Request,
        denoising: Denoising,
        sigmas: Floats,
        watch: Stopwatch,
        after: AfterStep | None,
        stopped: Callable[[], bool],
    ) -> tuple[Floats, int]:
        """From noise to latents [n, C, h, w], packed as patches all the way; and the number of steps done."""
        patch, size = self._manifest.latents.patch_size, self._grid.latent_size(request)
        patches = patchify(self._initial(request), patch)  # [n, N, C·p·p]
        timesteps, step = self._scheduler.timesteps(sigmas), 0
        for step in range(request.num_inference_steps):
            with watch.lap():
                velocity = denoising.velocity(step, patches)
                denoised = patches - sigmas[step] * velocity if after is not None else None  # x0 = x − σ·v
                patches = euler_step(patches, velocity, sigmas[step], sigmas[step + 1])
            if after is not None and denoised is not None:
                latents, clean = (unpatchify(values, patch, *size) for values in (patches, denoised))
                changed = after(step, float(timesteps[step]), {"latents": latents, "denoised": clean})
                if changed and changed.get("latents") is not None:
                    patches = patchify(check_latents(changed["latents"], *latents.shape[:2]), patch)
            if stopped():
                break
        if not np.isfinite(patches).all():
            raise WorkError(
                "the model's numbers overflowed; there is no picture", "use a bundle with a higher precision"
            )
        return unpatchify(patches, patch, *size), step + 1

    def _initial(self, request: Request) -> Floats:
        if request.latents is not None:
            return request.latents
        shape = (self._manifest.latents.channels, *self._grid.latent_size(request))
        return initial_latents(request.seeds or (), shape)

    def _reference(self, request: Request, pictures: list[Image.Image]) -> Floats:
        """The encoded pictures as patches [1 or n, N, C·p·p]."""
        noise = None
        if request.reference == "sample":
            shape = (self._manifest.latents.channels, *self._grid.latent_size(request))
            noise = np.stack([reference_noise(seed, shape) for seed in request.seeds or ()])
        latents = self._autoencoder.encode(np.concatenate([to_array(picture) for picture in pictures]), noise)
        return patchify(latents, self._manifest.latents.patch_size)

    @cached_property
    def _scheduler(self) -> FlowMatchEuler:
        return FlowMatchEuler.from_json(self._bundle.read(self._manifest.scheduler))

    @cached_property
    def _positions(self) -> PositionTable:
        return open_positions(self._bundle)


def _graphs(conditioner: Conditioner, *, editing: bool) -> list[str]:
    """The graphs a task needs, in the order in which it needs them."""
    told = conditioner.graphs(editing=editing)
    return [*told, *(["vae_encoder"] if editing else []), "modulation", "denoiser", "vae_decoder"]


def _by_row(request: Request, pictures: list[Image.Image] | None) -> list[Image.Image] | None:
    """The picture of each row of the denoiser's batch: one for all, or one for each picture that is made."""
    return None if pictures is None else [pictures[row % len(pictures)] for row in range(len(request.rows))]
