"""The runtime on a bundle as a peer, through any backend that runs it here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.patches import open_positions, patchify, unpatchify
from unipic2_edge.runtime.pipeline import Pipeline

from .peer import STEP, TIMESTEP, Floats, Job, Made, Peer

if TYPE_CHECKING:
    from unipic2_edge.runtime.engine import Engine

#: Backends by the name of a comparison: as the bundle is served, on processors, and on GPUs.
BACKENDS = ("auto", "onnxruntime", "openvino", "openvino-bf16", "cuda", "tensorrt")
_DEVICES = {"cuda": "cuda", "tensorrt": "gpu"}


class BundlePeer(Peer):
    """Pictures by the runtime's pipeline, steps by the denoiser's session.

    A step's modulation is computed once for each set of inputs and kept, as the runtime computes it once a picture.

    Args:
        pipeline: opened.
        backend: for people.
    """

    def __init__(self, pipeline: Pipeline, backend: str = "auto") -> None:
        self._pipeline, self._backend = pipeline, backend
        self._told: tuple[int, dict[str, Any]] | None = None

    def make(self, job: Job) -> Made:
        """See `Peer.make`."""
        if job.task == STEP:
            return Made(self._step(job))
        options: dict[str, Any] = {
            "num_inference_steps": job.steps, "guidance_scale": job.guidance, "latents": job.latents
        }  # fmt: skip
        if job.source is None:
            made = self._pipeline.generate(job.prompt, **options)
        else:
            made = self._pipeline.edit(Image.fromarray(job.source), job.prompt, **options)
        return Made(made.latents, np.asarray(made.images[0]))

    def about(self) -> Mapping[str, str]:
        """Where the graphs run, and the bundle's recipe."""
        placed = self._pipeline.explain()
        return {"recipe": self._pipeline.manifest.recipe, "backend": self._backend} | (
            {"placed": "; ".join(line.strip() for line in placed)} if placed else {}
        )

    def close(self) -> None:
        """See `Peer.close`."""
        self._pipeline.close()

    def _step(self, job: Job) -> Floats:
        space, (height, width) = self._pipeline.manifest.latents, job.latents.shape[-2:]
        patch = space.patch_size
        feed = {
            "patches": patchify(job.latents, patch),
            "positions": open_positions(self._pipeline.bundle).crop(height // patch, width // patch),
            **self._modulation(job),
        }
        return unpatchify(self._pipeline.sessions["denoiser"].run(feed)["velocity"], patch, height, width)

    def _modulation(self, job: Job) -> dict[str, Any]:
        """What the words and the timestep make of a step; its session is closed before the denoiser's is opened."""
        context, pooled = job.told
        if self._told is None or self._told[0] != job.seed:
            inputs = {"timestep": np.array([TIMESTEP], np.float32), "pooled": pooled, "context": context}
            made = self._pipeline.sessions["modulation"].run(inputs)
            self._pipeline.sessions.close(["modulation"])
            self._told = job.seed, {"context": made["embedded_context"], "modulation": made["modulation"][0]}
        return self._told[1]


def open_peer(settings: Mapping[str, Any]) -> BundlePeer:
    """A peer of `bundle` through `backend`, on `threads`.

    Raises:
        UserError: see `Pipeline.load` and `processor_engines`.
    """
    folder, backend, threads = Path(settings["bundle"]), settings["backend"], settings["threads"]
    if backend in ("auto", *_DEVICES):
        device: str = _DEVICES[backend] if backend in _DEVICES else settings["device"]
        return BundlePeer(Pipeline.load(folder, device, threads), backend)
    bundle = Bundle(folder)
    return BundlePeer(_through(bundle, processor_engines(bundle, backend, threads), threads), backend)


def processor_engines(bundle: Bundle, backend: str, threads: int | None) -> dict[str, Engine]:
    """The engines of one of the processor's backends by graph, built where they are missing; no target uses them.

    Raises:
        RequestError: the backend does not run the bundle's precision, or this processor has no bfloat16 products.
        MissingDependencyError: the backend is not installed.
        BundleError, OutputError, WorkError: see `build`.
    """
    from unipic2_edge.engines.build import compile_jobs
    from unipic2_edge.engines.engine_set import Options, engine_set
    from unipic2_edge.engines.sizes import default_sizes
    from unipic2_edge.engines.targets import targets_of

    name, _, half = backend.partition("-")
    options = Options(
        default_sizes(bundle.manifest), threads, backend=name, inference_precision="bf16" if half else "f32"
    )
    built = compile_jobs(bundle, engine_set(bundle, targets_of("cpu"), options))
    return {made.engine.spec.graph: made.engine for made in built}


def _through(bundle: Bundle, engines: Mapping[str, Engine], threads: int | None) -> Pipeline:
    from unipic2_edge.runtime.opening import open_on_processor
    from unipic2_edge.runtime.pool import SessionPool

    return Pipeline(bundle, SessionPool(bundle, lambda graph: open_on_processor(bundle, engines[graph], threads)))
