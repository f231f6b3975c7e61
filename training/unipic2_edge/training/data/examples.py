"""What the denoiser stage trains on, from shards: latents, references and embeddings of one task and one size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkpoint import Checkpoint, TextTokenizers
from ..conditioning import TextConditioner
from ..flow import Condition
from ..loop.share import Share
from ..recipe import Recipe
from .encoding import Caches, Encoding
from .kinds import Kind
from .probe import COUNT, Probe
from .samples import Sample
from .streams import ShardStreams


class ShardExamples:
    """Micro-batches for the denoiser.

    Args:
        recipe: with `data.kind = "shards"`.
        checkpoint: of the frozen parts.
        vae: the autoencoder.
        conditioner: the text encoders.
        tokenize: their tokenizers.
        output: the run's folder; the cache is there unless the recipe names another.

    Raises:
        RecipeError, DataError: see `ShardStreams`.
    """

    def __init__(
        self,
        recipe: Recipe,
        checkpoint: Checkpoint,
        vae: Any,
        conditioner: TextConditioner,
        tokenize: TextTokenizers,
        output: Path,
    ) -> None:
        shards, share = recipe.data.shards, recipe.data.edit_share
        dtype = next(conditioner.parameters()).dtype
        folder = Path(shards.cache_folder) if shards.cache_folder else output / "cache"
        caches = Caches.of(shards.cache, folder, checkpoint, f"{dtype} {recipe.mixed_precision}")
        wanted: list[tuple[Kind, bool]] = [("captions", share < 1), ("edits", share > 0)]
        self.streams = ShardStreams(recipe, [kind for kind, needed in wanted if needed], caches.latents)
        self.encoding = Encoding(vae, conditioner, tokenize, caches, self.streams.pool)

    def begin(self, share: Share) -> ShardStreams:
        """Read as this process of so many; the first call counts. The streams' state goes with the run's."""
        self.streams.begin(share)
        return self.streams

    def batch(self, edit: bool, dropped: NDArray[np.bool_], device: torch.device) -> tuple[Tensor, Condition]:
        """Clean latents [B, C, h, w] of the next micro-batch of one task, and what the denoiser is told.

        Args:
            edit: the task.
            dropped: rows [B] whose texts are left empty; references stay.
            device: where they go.

        Raises:
            WorkError: too much of the data is bad, or the disk is full.
            OutputError: the cache cannot be written.
        """
        return self.encoded(self.streams.batch("edits" if edit else "captions"), edit, dropped, device)

    def encoded(
        self, samples: Sequence[Sample], edit: bool, dropped: NDArray[np.bool_], device: torch.device
    ) -> tuple[Tensor, Condition]:
        """Samples of one size as the denoiser takes them."""
        texts = ["" if drop else sample.texts[0] for sample, drop in zip(samples, dropped, strict=True)]
        latents = self.encoding.latents([view for sample in samples for view in sample.views], device)
        context, pooled = self.encoding.words(texts, device)
        if not edit:
            return latents, Condition(context, pooled, None)
        return latents[1::2], Condition(context, pooled, latents[::2])

    def probes(self) -> list[Probe]:
        """The data's first records of each task that is trained."""
        kinds = self.streams.kinds
        return [Probe.of(self.streams.beginning(kind, COUNT), kind == "edits") for kind in kinds]

    def counts(self) -> dict[str, float]:
        """Epochs begun, bad records and cut texts, to be logged."""
        return self.streams.counts() | {"cut_texts": float(self.encoding.cut)}
