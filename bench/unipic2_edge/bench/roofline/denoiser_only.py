"""The calls of the denoiser alone, for bundles that hold no more (`export --components denoiser`)."""

from __future__ import annotations

import numpy as np

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.conditioning import Conditioning
from unipic2_edge.runtime.denoising import Denoising
from unipic2_edge.runtime.errors import BundleError
from unipic2_edge.runtime.pool import SessionPool

from .workload import Workload

GRAPHS = ("denoiser", "modulation")


def is_denoiser_only(bundle: Bundle) -> bool:
    """Whether there is nothing but the denoiser's two graphs."""
    return set(bundle.manifest.graphs) == set(GRAPHS)


def run_denoiser(bundle: Bundle, pool: SessionPool, workload: Workload) -> None:
    """Run the steps of a workload on noise and conditioning that are zero.

    Raises:
        BundleError: the bundle does not say how long its texts are.
    """
    # Both graphs take a context: what counts is the modulation's, before it is embedded.
    shapes = {spec.name: spec.shape for name in GRAPHS for spec in bundle.graph(name).inputs}
    latents = bundle.manifest.latents
    cell = latents.factor * latents.patch_size
    tokens, values = (workload.width // cell) * (workload.height // cell), _fixed(shapes["patches"][-1])
    count, rows = workload.pictures, 2 if workload.guidance > 1 else 1
    conditioning = Conditioning(
        np.zeros((rows, context_length(bundle), _fixed(shapes["context"][-1])), np.float32),
        np.zeros((rows, _fixed(shapes["pooled"][-1])), np.float32),
    )
    patches = np.zeros((count, tokens, values), np.float32)
    denoising = Denoising(
        pool,
        conditioning,
        [row for row in range(rows) for _ in range(count)],
        np.zeros(workload.steps, np.float32),
        np.zeros((tokens, _fixed(shapes["positions"][-1])), np.float32),
        count,
        workload.guidance,
        patches[:1] if workload.task == "edit" else None,
    )
    for step in range(workload.steps):
        denoising.velocity(step, patches)


def context_length(bundle: Bundle) -> int:
    """Tokens of the context: CLIP's and T5's, or the queries."""
    text, query = bundle.manifest.text, bundle.manifest.query
    if query is not None:
        return query.count
    if text is None:
        raise BundleError(f"{bundle.folder} does not say how long its texts are", "export all components")
    lengths = [entry.length for entry in text.tokenizers.values()]
    return lengths[0] + lengths[-1]


def _fixed(side: int | str) -> int:
    """A dimension that is no name.

    Raises:
        BundleError: it is one.
    """
    if isinstance(side, str):
        raise BundleError(f"the width {side!r} of an input is not fixed", "export the checkpoint again")
    return side
