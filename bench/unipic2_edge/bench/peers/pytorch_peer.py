"""The plain PyTorch pipeline of a checkpoint as a peer, eager or through torch.compile."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.metaquery.checkpoint import MetaqueryCheckpoint, open_checkpoint
from unipic2_edge.training.metaquery.pipeline import MetaqueryPipeline
from unipic2_edge.training.pipeline import DenoisingPipeline, KontextPipeline

from .peer import STEP, TIMESTEP, Job, Made, Peer


class PyTorchPeer(Peer):
    """Pictures by the pipeline, steps by its denoiser, whose modulation runs at every step.

    Args:
        pipeline: whole; or none, where only steps are asked for.
        transformer: the pipeline's denoiser.
        compiled: whether denoiser and autoencoder run through torch.compile; the first pictures compile them.
    """

    def __init__(self, pipeline: DenoisingPipeline | None, transformer: Any, compiled: bool = False) -> None:
        self._pipeline, self._transformer = pipeline, transformer
        if compiled:
            # Shapes do not change within a run: each gets code of its own.
            parts = [transformer] if pipeline is None else [transformer, pipeline.vae.encoder, pipeline.vae.decoder]
            for part in parts:
                part.compile(dynamic=False)

    def make(self, job: Job) -> Made:
        """See `Peer.make`."""
        if job.task == STEP:
            return Made(self._step(job))
        pictures, latents = self._whole(
            [job.prompt],
            torch.from_numpy(job.latents),
            None if job.source is None else [job.source],
            num_inference_steps=job.steps,
            guidance_scale=job.guidance,
        )
        return Made(latents.numpy(), np.asarray(pictures[0]))

    def about(self) -> Mapping[str, str]:
        """PyTorch's version, and where it runs."""
        return {"torch": torch.__version__, "device": device_name(self._transformer.device)}

    @cached_property
    def _whole(self) -> DenoisingPipeline:
        if self._pipeline is None:
            raise RuntimeError("it was opened for steps alone")
        return self._pipeline

    @torch.inference_mode()
    def _step(self, job: Job) -> Any:
        context, pooled = job.told
        device, dtype = self._transformer.device, self._transformer.dtype
        latents, told, words = (torch.from_numpy(values).to(device, dtype) for values in (job.latents, context, pooled))
        timestep = torch.full((len(latents),), TIMESTEP, device=device)
        velocity: Tensor = self._transformer(latents, told, words, timestep, return_dict=False)[0]
        return velocity.float().cpu().numpy()


def open_peer(settings: Mapping[str, Any]) -> PyTorchPeer:
    """A peer of `checkpoint`, in `dtype`, on `device`, `compiled` or not, on `threads`, for `tasks`.

    Raises:
        CheckpointError: a part is missing or damaged.
    """
    if settings["threads"] is not None:
        torch.set_num_threads(settings["threads"])
    steps_only, dtype = settings["tasks"] == [STEP], getattr(torch, settings["dtype"])
    checkpoint = open_checkpoint(Path(settings["checkpoint"]), partial=steps_only)
    if steps_only:
        return PyTorchPeer(None, checkpoint.load_transformer(dtype).to(settings["device"]), settings["compiled"])
    pipeline = load_pipeline(checkpoint, settings["device"], dtype)
    return PyTorchPeer(pipeline, pipeline.transformer, settings["compiled"])


def load_pipeline(checkpoint: Checkpoint, device: str = "cpu", dtype: torch.dtype = torch.float32) -> DenoisingPipeline:
    """The plain PyTorch pipeline of a checkpoint's variant.

    Raises:
        CheckpointError: a part is missing or damaged.
    """
    if isinstance(checkpoint, MetaqueryCheckpoint):
        return MetaqueryPipeline.load(checkpoint, device, dtype)
    return KontextPipeline(checkpoint, device, dtype)


def device_name(device: torch.device) -> str:
    """The card's name, or the processor's architecture."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
