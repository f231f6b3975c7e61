"""The plain PyTorch pipeline: generation and editing as diffusers does them. The peer the runtime is measured against.

Same checkpoint, same conditioning, diffusers' own scheduler; eager, one guidance batch [negative, positive].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .autoencoder import to_pictures, to_tensor
from .checkpoint import Checkpoint
from .flow import sample
from .shapes.render import Picture


class KontextPipeline:
    """A checkpoint's parts, loaded, and the two tasks on them.

    Args:
        checkpoint: a whole checkpoint in the published layout.
        device: where to run.
        dtype: of every part.

    Raises:
        CheckpointError: a part is missing or damaged.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.transformer = checkpoint.load_transformer(dtype).to(device)
        self.vae = checkpoint.load_vae(dtype).to(device)
        self.conditioner = checkpoint.load_conditioner(dtype).to(device)
        self.scheduler = checkpoint.load_scheduler()
        self.tokenize = checkpoint.tokenizers()
        self.device, self.dtype = torch.device(device), dtype

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
        first, second, third = (part.to(self.device) for part in self.tokenize(rows))
        context, pooled = self.conditioner((first, second, third))
        reference = None if pictures is None else self.encode(pictures)
        noise = latents.to(self.device, self.dtype)
        final = sample(
            self.transformer, self.scheduler, noise, context, pooled, reference, num_inference_steps, guidance_scale
        )
        return self.decode(final), final.float().cpu()

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Picture]) -> Tensor:
        """Pictures → latents [n, C, h, w], shifted and scaled."""
        images = to_tensor(list(pictures)).to(self.device, self.dtype)
        config = self.vae.config
        latents: Tensor = (self.vae.encode(images).latent_dist.mode() - config.shift_factor) * config.scaling_factor
        return latents

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> list[Picture]:
        """Latents [n, C, h, w], shifted and scaled → pictures."""
        config = self.vae.config
        return to_pictures(self.vae.decode(latents / config.scaling_factor + config.shift_factor).sample)
