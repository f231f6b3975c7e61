"""stable-diffusion.cpp as a peer, through its PyPI package `stable-diffusion-cpp-python`: generation.

It draws its own noise: with its `cpu` generator the same numbers as torch on a processor, from the job's seed. It has
SD3.5-Medium's shapes built in and aborts on others, so they are looked at first; it gives no latents away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from .peer import GENERATE, CannotError, Job, Made, Peer, refuse

#: What its code fixes (mmdit.hpp, auto_encoder_kl.hpp, clip.hpp, t5.hpp), by part and field of a config.
_FIXED: dict[str, dict[str, Any]] = {
    "transformer": {
        "num_layers": 24, "num_attention_heads": 24, "attention_head_dim": 64, "patch_size": 2, "in_channels": 16,
        "joint_attention_dim": 4096, "pooled_projection_dim": 2048, "pos_embed_max_size": 384,
    },
    "vae": {"latent_channels": 16, "block_out_channels": [128, 256, 512, 512]},
    "text_encoder": {"hidden_size": 768, "num_hidden_layers": 12, "vocab_size": 49408},
    "text_encoder_2": {"hidden_size": 1280, "num_hidden_layers": 32, "vocab_size": 49408},
    "text_encoder_3": {"d_model": 4096, "num_layers": 24, "vocab_size": 32128},
}  # fmt: skip
_WEIGHTS = {
    "diffusion_model_path": "transformer/diffusion_pytorch_model.safetensors",
    "vae_path": "vae/diffusion_pytorch_model.safetensors",
    "clip_l_path": "text_encoder/model.safetensors",
    "clip_g_path": "text_encoder_2/model.safetensors",
    "t5xxl_path": "text_encoder_3/model.safetensors",
}
_PACKAGE = "stable-diffusion-cpp-python"


class SdcppPeer(Peer):
    """Pictures by stable-diffusion.cpp.

    Args:
        model: opened.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def make(self, job: Job) -> Made:
        """See `Peer.make`."""
        refuse(job, (GENERATE,), "stable-diffusion.cpp takes no reference latents for SD3 and has no step of its own")
        width, height = job.size
        made = self._model.generate_image(
            prompt=job.prompt,
            negative_prompt="",
            width=width,
            height=height,
            cfg_scale=job.guidance,
            sample_method="euler",
            sample_steps=job.steps,
            seed=job.seed,
        )
        return Made(picture=np.asarray(made[0].convert("RGB")))

    def about(self) -> Mapping[str, str]:
        """Its package's version."""
        return {_PACKAGE: version(_PACKAGE)}


def open_peer(settings: Mapping[str, Any]) -> SdcppPeer:
    """A peer of `checkpoint`, on `threads`.

    Raises:
        CannotError: the package is not installed in this interpreter, or does not know the checkpoint's shapes.
    """
    try:
        library = import_module("stable_diffusion_cpp")
    except (ImportError, OSError, RuntimeError) as error:
        raise CannotError(f"{_PACKAGE} is not installed here ({error}); name another: --python sdcpp=PATH") from error
    folder = Path(settings["checkpoint"])
    check_shapes(folder)
    model = library.StableDiffusion(
        **{name: str(folder / file) for name, file in _WEIGHTS.items()},
        n_threads=settings["threads"] or -1,
        rng_type="cpu",
        sampler_rng_type="cpu",
        vae_decode_only=True,
        verbose=False,
    )
    return SdcppPeer(model)


def check_shapes(folder: Path) -> None:
    """Refuse a checkpoint that stable-diffusion.cpp has not the shapes of.

    Raises:
        CannotError: the first difference.
    """
    for part, fields in _FIXED.items():
        path = folder / part / "config.json"
        if not path.is_file():
            raise CannotError(f"the checkpoint has no {part}")
        config = json.loads(path.read_text(encoding="utf-8"))
        for name, fixed in fields.items():
            if config.get(name) != fixed:
                raise CannotError(
                    f"stable-diffusion.cpp knows SD3.5-Medium's shapes alone: "
                    f"{part}'s {name} {config.get(name)} is not {fixed}"
                )
    missing = next((file for file in _WEIGHTS.values() if not (folder / file).is_file()), None)
    if missing is not None:
        raise CannotError(f"the checkpoint has no {missing}")
