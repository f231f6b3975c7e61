"""Latents of pictures and embeddings of texts by the frozen parts, kept on disk where a recipe says so."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..autoencoder import to_tensor
from ..checkpoint import Checkpoint, TextTokenizers
from ..conditioning import TextConditioner
from ..layout import MODELS, TOKENIZERS
from .cache import Cache
from .samples import View

logger = logging.getLogger(__name__)
_ENCODERS = MODELS[2:]


@dataclass(frozen=True)
class Caches:
    """Where latents and embeddings are kept, or not."""

    latents: Cache | None = None
    words: Cache | None = None

    @classmethod
    def of(cls, kind: str, folder: Path, checkpoint: Checkpoint, how: str) -> Caches:
        """The caches of a recipe.

        Args:
            kind: `none`, `latents` or `all`.
            folder: of both.
            checkpoint: with the frozen parts, whose bytes are hashed.
            how: the precision in which the text encoders run.
        """
        latents = Cache(folder, f"vae {checkpoint.parts_sha256(['vae'])}") if kind != "none" else None
        if kind != "all":
            return cls(latents)
        encoders = checkpoint.parts_sha256([*_ENCODERS, *TOKENIZERS])
        return cls(latents, Cache(folder, f"text encoders {encoders} {how}"))


class Encoding:
    """The frozen autoencoder and text encoders of a checkpoint, with their caches.

    Args:
        vae: the autoencoder.
        conditioner: the text encoders.
        tokenize: their tokenizers.
        caches: what is kept.
        pool: threads that read.
    """

    def __init__(
        self, vae: Any, conditioner: TextConditioner, tokenize: TextTokenizers, caches: Caches, pool: Executor
    ) -> None:
        self.vae, self.conditioner, self.tokenize, self.caches, self.pool = vae, conditioner, tokenize, caches, pool
        self.cut = 0

    @torch.no_grad()
    def latents(self, views: Sequence[View], device: torch.device) -> Tensor:
        """Latents [B, C, h, w] of views of one size: posterior means, shifted and scaled, in float32.

        Encoded in full precision whatever the loop's, rounded as the cache rounds them.

        Raises:
            OutputError, WorkError: an earlier entry of the cache could not be written.
        """
        found = [view.latents for view in views]
        missing = [number for number, latents in enumerate(found) if latents is None]
        pictures = [picture for number in missing if (picture := views[number].picture) is not None]
        if pictures:
            config = self.vae.config
            with torch.autocast(device.type, enabled=False):
                encoded = self.vae.encode(to_tensor(pictures).to(device, self.vae.dtype)).latent_dist.mode()
            made = ((encoded - config.shift_factor) * config.scaling_factor).float()
            for number, latents in zip(missing, made, strict=True):
                found[number] = self._kept(views[number].key, latents)
        return torch.stack([latents.to(device) for latents in found if latents is not None])

    def _kept(self, key: str, latents: Tensor) -> Tensor:
        cache = self.caches.latents
        return latents if cache is None else cache.put(key, {"latents": latents})["latents"]

    @torch.no_grad()
    def words(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Context [B, L, J] and pooled [B, P] of texts, in float32.

        Raises:
            OutputError, WorkError: an earlier entry of the cache could not be written.
        """
        cache = self.caches.words
        if cache is None:
            return self._told(texts, device)
        different = list(dict.fromkeys(texts))
        found = dict(zip(different, self.pool.map(cache.get, different), strict=True))
        missing = [text for text, entry in found.items() if entry is None]
        if missing:
            context, pooled = self._told(missing, device)
            for text, each, vector in zip(missing, context, pooled, strict=True):
                found[text] = cache.put(text, {"context": each, "pooled": vector})
        entries = [entry for text in texts if (entry := found[text]) is not None]
        context, pooled = (torch.stack([entry[name] for entry in entries]).to(device) for name in ("context", "pooled"))
        return context, pooled

    def _told(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        first, second, third = self.tokenize(list(texts))
        self._count_cut(texts, third)
        context, pooled = self.conditioner((first.to(device), second.to(device), third.to(device)))
        return context.float(), pooled.float()

    def _count_cut(self, texts: Sequence[str], ids: Tensor) -> None:
        """Texts that leave T5, which takes the most, no room for padding were cut, or fit exactly."""
        full = (ids[:, -1] != self.tokenize.pad_ids[-1]).nonzero().flatten().tolist()
        if full and not self.cut:
            logger.warning("a text has more than T5's %d tokens and is cut: %.80s…", ids.shape[1], texts[full[0]])
        self.cut += len(full)
