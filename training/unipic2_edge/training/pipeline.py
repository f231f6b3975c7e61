"""The plain PyTorch pipelines: generation and editing as diffusers does them, the peers of the runtime.

Same checkpoint, same conditioning, diffusers' own scheduler; eager, one guidance batch [negative, positive].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .autoencoder import to_pictures, to_tensor
from .checkpoint import Checkpoint
from .flow import sample
from .shapes.render import Picture


class DenoisingPipeline:
    """Denoiser, autoencoder and scheduler, and the two tasks on them; what conditions the denoiser is a subclass's.

    Args:
        transformer: the denoiser.
        vae: the autoencoder.
        scheduler: flow matching's.
    """

    def __init__(self, transformer: Any, vae: Any, scheduler: Any) -> None:
        self.transformer, self.vae, self.scheduler = transformer, vae, scheduler

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        device: torch.device = self.transformer.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The denoiser's."""
        dtype: torch.dtype = self.transformer.dtype
        return dtype

    def condition(self, rows: Sequence[str], pictures: Sequence[Picture] | None) -> tuple[Tensor, Tensor]:
        """Prompts, or instructions with their pictures → context [B, L, J] and pooled [B, P]."""
        raise NotImplementedError

    @torch.inference_mode()
    def __call__(
        self,
        prompts: Sequence[str],
        latents: Tensor,
        pictures: Sequence[Picture] | None = None,
        negative_prompt: str = "",
        num_inference_steps: int = 28,
        guidance_scale: float = 3.5,
    ) -> tuple[list[Picture], Tensor]:
        """Make one picture for each prompt; with `pictures`, edit them.

        Args:
            prompts: prompts or instructions, n of them.
            latents: initial noise [n, C, h, w].
            pictures: one [H, W, 3] uint8 for each instruction, of the latents' size; encoded to the posterior's mode.
            negative_prompt: for all of them.
            num_inference_steps: Euler steps.
            guidance_scale: 1 or less runs without guidance.

        Returns:
            The pictures, and the final latents [n, C, h, w].
        """
        rows = [negative_prompt] * len(prompts) + list(prompts) if guidance_scale > 1 else list(prompts)
        seen = None if pictures is None else list(pictures) * (len(rows) // len(prompts))
        context, pooled = (each.to(self.dtype) for each in self.condition(rows, seen))
        reference = None if pictures is None else self.encode(pictures).to(self.dtype)
        noise = latents.to(self.device, self.dtype)
        final = sample(
            self.transformer, self.scheduler, noise, context, pooled, reference, num_inference_steps, guidance_scale
        )
        return self.decode(final), final.float().cpu()

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Picture]) -> Tensor:
        """Pictures → latents [n, C, h, w], shifted and scaled, in the autoencoder's dtype."""
        images = to_tensor(list(pictures)).to(self.device, self.vae.dtype)
        config = self.vae.config
        latents: Tensor = (self.vae.encode(images).latent_dist.mode() - config.shift_factor) * config.scaling_factor
        return latents

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> list[Picture]:
        """Latents [n, C, h, w], shifted and scaled → pictures."""
        config = self.vae.config
        return to_pictures(
            self.vae.decode(latents.to(self.vae.dtype) / config.scaling_factor + config.shift_factor).sample
        )


class KontextPipeline(DenoisingPipeline):
    """A Kontext checkpoint's parts, loaded: two CLIPs and T5 read the words.

    Args:
        checkpoint: a whole checkpoint in the published layout.
        device: where to run.
        dtype: of every part.
        words_dtype: of the text encoders, where it is another.

    Raises:
        CheckpointError: a part is missing or damaged.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        words_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            checkpoint.load_transformer(dtype).to(device),
            checkpoint.load_vae(dtype).to(device),
            checkpoint.load_scheduler(),
        )
        self.conditioner = checkpoint.load_conditioner(words_dtype or dtype).to(device)
        self.tokenize = checkpoint.tokenizers()

    def condition(self, rows: Sequence[str], pictures: Sequence[Picture] | None) -> tuple[Tensor, Tensor]:
        """The words alone condition it."""
        first, second, third = (part.to(self.device) for part in self.tokenize(list(rows)))
        context, pooled = self.conditioner((first, second, third))
        return context, pooled
