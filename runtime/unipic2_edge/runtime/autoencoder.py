"""The VAE's host half: the latent space's scaling, the reference's mode or sample, work in bounded pieces."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .bundle import Latents
from .conditioning import Sessions

Floats = NDArray[np.float32]

_PIXELS_AT_ONCE = 1 << 20  # decoding needs far more memory a pixel than denoising


class Autoencoder:
    """Pictures ↔ latents.

    Args:
        sessions: the opened graphs `vae_encoder` and `vae_decoder`.
        space: z = (encoded − shift) · scaling.
    """

    def __init__(self, sessions: Sessions, space: Latents) -> None:
        self._sessions, self._space = sessions, space

    def encode(self, images: Floats, noise: Floats | None = None) -> Floats:
        """Pictures [B, 3, H, W] in [-1, 1] → latents [B, C, h, w]; [n, C, h, w] for B = 1 and n rows of noise.

        Args:
            images: the pictures.
            noise: standard normal [n, C, h, w] draws from the posterior; None takes its mode, the mean.
        """
        posterior = self._in_pieces("vae_encoder", "image", images, images.shape[2] * images.shape[3])
        latents = posterior["mean"]
        if noise is not None:
            # diffusers' DiagonalGaussianDistribution clamps the log-variance to [-30, 20]
            latents = latents + np.exp(np.float32(0.5) * np.clip(posterior["logvar"], -30, 20)) * noise
        return (latents - np.float32(self._space.shift_factor)) * np.float32(self._space.scaling_factor)

    def decode(self, latents: Floats) -> Floats:
        """Latents [B, C, h, w] → pictures [B, 3, H, W]."""
        space = self._space
        unscaled = np.asarray(latents / space.scaling_factor + space.shift_factor, dtype=np.float32)
        pixels = latents.shape[2] * latents.shape[3] * space.factor**2
        return self._in_pieces("vae_decoder", "latents", unscaled, pixels)["image"]

    def _in_pieces(self, graph: str, name: str, batch: Floats, pixels: int) -> dict[str, Floats]:
        """Run a graph on about a megapixel at a time."""
        step, session = max(1, _PIXELS_AT_ONCE // pixels), self._sessions[graph]
        pieces = [session.run({name: batch[at : at + step]}) for at in range(0, len(batch), step)]
        return {output: np.concatenate([piece[output] for piece in pieces]) for output in pieces[0]}
