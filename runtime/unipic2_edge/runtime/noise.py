"""Initial noise: an independent stream for each seed (numpy's PCG64, float32); no picture depends on another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_REFERENCE_STREAM = 1


def initial_latents(seeds: Sequence[int], shape: tuple[int, int, int]) -> Floats:
    """Standard normal noise [len(seeds), C, h, w]; row i depends on seeds[i] and the shape alone."""
    return np.stack([np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) for seed in seeds])


def reference_noise(seed: int, shape: tuple[int, ...]) -> Floats:
    """Standard normal noise for drawing a reference latent, from a stream of its own."""
    return np.random.default_rng([seed, _REFERENCE_STREAM]).standard_normal(shape, dtype=np.float32)
