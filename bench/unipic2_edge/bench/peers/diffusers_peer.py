"""diffusers' own StableDiffusion3Pipeline on a checkpoint's folder as a peer: generation, eager or compiled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers
import numpy as np
import torch

from .diffusing import diffuse
from .peer import GENERATE, Job, Made, Peer, refuse
from .pytorch_peer import device_name


class DiffusersPeer(Peer):
    """Pictures by diffusers' pipeline.

    Args:
        pipeline: loaded.
        compiled: whether denoiser and decoder run through torch.compile.
    """

    def __init__(self, pipeline: Any, compiled: bool = False) -> None:
        self._pipeline = pipeline
        pipeline.set_progress_bar_config(disable=True)
        if compiled:
            for part in (pipeline.transformer, pipeline.vae.decoder):
                part.compile(dynamic=False)

    def make(self, job: Job) -> Made:
        """See `Peer.make`."""
        refuse(job, (GENERATE,), "diffusers' SD3 pipeline takes no reference latents")
        device, dtype = self._pipeline.transformer.device, self._pipeline.transformer.dtype
        picture, latents = diffuse(self._pipeline, job, torch.from_numpy(job.latents).to(device, dtype))
        return Made(latents.float().cpu().numpy().astype(np.float32), picture)

    def about(self) -> Mapping[str, str]:
        """Versions, and where it runs."""
        device = device_name(self._pipeline.transformer.device)
        return {"diffusers": diffusers.__version__, "torch": torch.__version__, "device": device}


def open_peer(settings: Mapping[str, Any]) -> DiffusersPeer:
    """A peer of `checkpoint`, in `dtype`, on `device`, `compiled` or not, on `threads`."""
    if settings["threads"] is not None:
        torch.set_num_threads(settings["threads"])
    kind: Any = diffusers.StableDiffusion3Pipeline  # pyright: ignore[reportPrivateImportUsage]
    pipeline = kind.from_pretrained(
        settings["checkpoint"], dtype=getattr(torch, settings["dtype"]), use_safetensors=True
    )
    return DiffusersPeer(pipeline.to(settings["device"]), settings["compiled"])
