"""The denoiser's host half: modulation of all steps in one call, then a guided velocity for each step.

Patches, positions and context go in, velocities come out; the reference's patches stand before the noisy ones
and only the noisy ones' velocity is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .conditioning import Conditioning, Sessions

Floats = NDArray[np.float32]


class Denoising:
    """One batch on its way from noise to picture.

    Args:
        sessions: the opened graphs `modulation` and `denoiser`.
        conditioning: of the distinct prompts, [U, …].
        rows: which of the U prompts each row of the denoiser's batch has; with guidance the n negative rows
            come first, then the n positive ones, else there are n rows.
        timesteps: of all steps, [T].
        positions: of one picture's patches, [N, D].
        count: n, the number of pictures.
        guidance: the scale of classifier-free guidance (used when there are 2n rows).
        reference: packed reference latents [n or 1, N, C·p·p], or none.
    """

    def __init__(
        self,
        sessions: Sessions,
        conditioning: Conditioning,
        rows: Sequence[int],
        timesteps: Floats,
        positions: Floats,
        count: int,
        guidance: float,
        reference: Floats | None = None,
    ) -> None:
        # The modulation sees (timestep, pooled) only: once for every step and distinct prompt.
        prepared = sessions["modulation"].run(
            {"timestep": timesteps, "pooled": conditioning.pooled, "context": conditioning.context}
        )
        self._sessions = sessions  # asked at every step: a preview between two may have taken the denoiser's turn
        self._modulation = prepared["modulation"]  # [T, U, M]
        self._rows = np.asarray(rows)
        self._context = prepared["embedded_context"][self._rows]  # [B, L, D]
        self._positions = np.tile(positions, (1 if reference is None else 2, 1))  # [N or 2N, D]
        for unchanging in (self._context, self._positions):  # so that a GPU need not be given them at every step
            unchanging.flags.writeable = False
        self._count, self._guidance = count, np.float32(guidance)
        self._reference = reference
        self._patches: Floats | None = None

    def velocity(self, step: int, patches: Floats) -> Floats:
        """The guided velocity ε − x0 of a step: patches [n, N, C·p·p] → the same shape."""
        noisy = patches.shape[1]
        result = self._sessions[
            "denoiser"
        ].run(
            {
                "patches": self._batch(patches),
                "positions": self._positions,
                "context": self._context,
                "modulation": self._modulation[step][self._rows],  # [B, M]
            }
        )["velocity"][:, -noisy:]
        if len(self._rows) == self._count:
            return result
        negative, positive = result[: self._count], result[self._count :]
        return negative + self._guidance * (positive - negative)

    def _batch(self, patches: Floats) -> Floats:
        """[n, N, V] → [B, R + N, V], in a buffer whose reference part is written once."""
        count, noisy, values = patches.shape
        reference = 0 if self._reference is None else self._reference.shape[1]
        copies = len(self._rows) // self._count
        if self._patches is None:
            self._patches = np.empty((copies, count, reference + noisy, values), dtype=np.float32)
            if self._reference is not None:
                self._patches[:, :, :reference] = self._reference
        self._patches[:, :, reference:] = patches
        return self._patches.reshape(copies * count, reference + noisy, values)
