"""Latents to patches and back, and the crop of the position table: all the geometry the denoiser sees.

A patch's values stand in (c, p, q) order, the patch-embedding convolution's; the latents stay packed so
through the whole sampling loop.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bundle import Bundle, Positions
from .errors import BundleError, RequestError

Floats = NDArray[np.float32]


def patchify(latents: Floats, patch: int) -> Floats:
    """[B, C, h, w] → [B, (h/p)·(w/p), C·p·p], rows first."""
    batch, channels, height, width = latents.shape
    rows, columns = height // patch, width // patch
    grid = latents.reshape(batch, channels, rows, patch, columns, patch).transpose(0, 2, 4, 1, 3, 5)
    return np.ascontiguousarray(grid).reshape(batch, rows * columns, channels * patch * patch)


def unpatchify(patches: Floats, patch: int, height: int, width: int) -> Floats:
    """[B, (h/p)·(w/p), C·p·p] → [B, C, h, w]; height and width in latent pixels."""
    batch, _, values = patches.shape
    channels = values // (patch * patch)
    grid = patches.reshape(batch, height // patch, width // patch, channels, patch, patch)
    return np.ascontiguousarray(grid.transpose(0, 3, 1, 4, 2, 5)).reshape(batch, channels, height, width)


class PositionTable:
    """The model's fixed position embeddings on the host.

    Args:
        tensors: "x" and "y" [max, D/2] when separable, else "table" [max, max, D].
        positions: the manifest's description.

    Raises:
        BundleError: the tensors are not those that the manifest describes.
    """

    def __init__(self, tensors: dict[str, NDArray[Any]], positions: Positions) -> None:
        size, dim = positions.max_size, positions.dim
        separable = {"x": (size, dim // 2), "y": (size, dim // 2)}
        shapes = separable if positions.kind == "separable" else {"table": (size, size, dim)}
        if {name: value.shape for name, value in tensors.items()} != shapes:
            raise BundleError(f"{positions.file} does not hold the position table described", "export again")
        self._tensors = {name: value.astype(np.float32, copy=False) for name, value in tensors.items()}
        self.max_size = size

    def crop(self, rows: int, columns: int) -> Floats:
        """The centred crop for rows × columns patches: [rows·columns, D] (diffusers' `cropped_pos_embed`).

        Raises:
            RequestError: more patches a side than the table has.
        """
        if max(rows, columns) > self.max_size:
            raise RequestError(
                f"{columns}x{rows} patches are too many; the model knows {self.max_size} a side",
                "make a smaller picture",
            )
        top, left = (self.max_size - rows) // 2, (self.max_size - columns) // 2
        if "table" in self._tensors:
            crop = self._tensors["table"][top : top + rows, left : left + columns]
            return np.ascontiguousarray(crop).reshape(rows * columns, -1)
        x = self._tensors["x"][left : left + columns]  # [columns, D/2]
        y = self._tensors["y"][top : top + rows]  # [rows, D/2]
        return np.concatenate([np.tile(x, (rows, 1)), np.repeat(y, columns, axis=0)], axis=1)  # [rows·columns, D]


def open_positions(bundle: Bundle) -> PositionTable:
    """The bundle's position table.

    Raises:
        BundleError: missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    positions = bundle.manifest.positions
    try:
        return PositionTable(load(bundle.read(positions.file)), positions)
    except SafetensorError as error:
        raise BundleError(f"{positions.file} is damaged: {error}", "export the checkpoint again") from error
