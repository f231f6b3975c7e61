"""A picture's size in latent pixels, in patches and in tokens."""

from __future__ import annotations

from .bundle import Latents
from .request import Request


class Grid:
    """Counts what a request's pictures are made of.

    Args:
        latents: the latent space.
    """

    def __init__(self, latents: Latents) -> None:
        self.factor, self._patch = latents.factor, latents.patch_size

    def latent_size(self, request: Request) -> tuple[int, int]:
        """Height and width in latent pixels."""
        return request.height // self.factor, request.width // self.factor

    def patches(self, request: Request) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = self.latent_size(request)
        return height // self._patch, width // self._patch

    def tokens(self, request: Request) -> int:
        """How many patches there are."""
        rows, columns = self.patches(request)
        return rows * columns
