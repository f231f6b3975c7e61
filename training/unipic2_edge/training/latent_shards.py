"""Encoded training data on disk: shards of (source, edit, target) latents with their token ids.

Shard k is a function of (recipe, autoencoder, k) and is made when it is first needed: a run starts at once, sees
more pictures as it goes, and after a kill finds the shards it has made. One shard has one picture size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from .autoencoder import to_tensor
from .checkpoint import TextTokenizers
from .conditioning import TokenIds
from .loop.share import WHOLE, Share
from .recipe import Recipe
from .shapes.captions import training_caption
from .shapes.composition import composed_edit, composed_picture
from .shapes.edits import training_edit
from .shapes.render import render
from .shapes.scene import Canvas, Scene

SHARD_PAIRS = 2048
_STEPS_PER_SHARD = 100
_FIELDS = ("source", "target", "edit_ids", "source_ids", "target_ids")
_COMPOSED_FIELDS = ("composed", "composed_ids")


@dataclass(frozen=True)
class Batch:
    """A micro-batch of one task: clean latents [B, C, h, w], its reference or none, token ids."""

    latents: Tensor
    reference: Tensor | None
    ids: TokenIds


class LatentShards:
    """Draws micro-batches from shards, which it makes as needed.

    Latents are the posterior means, shifted and scaled as the denoiser sees them, stored in fp16. A share `composed`
    of the captions' micro-batches shows composed pictures; above 0, what edits add is composed as well.
    """

    def __init__(
        self,
        folder: Path,
        vae: AutoencoderKL,
        tokenize: TextTokenizers,
        canvases: list[Canvas],
        captions: int,
        seed: int,
        pairs: int = SHARD_PAIRS,
        composed: float = 0.0,
    ) -> None:
        self.folder, self.vae, self.tokenize, self.canvases = folder, vae.eval(), tokenize, canvases
        self.captions, self.seed, self.pairs, self.composed = captions, seed, pairs, composed
        self.fields = _FIELDS + (_COMPOSED_FIELDS if composed else ())
        self._open: dict[int, dict[str, NDArray[np.generic]]] = {}

    @classmethod
    def of(cls, recipe: Recipe, folder: Path, vae: AutoencoderKL, tokenize: TextTokenizers) -> LatentShards:
        """The shards of a recipe's data, in its sizes."""
        data = recipe.data
        canvases = _by_weight([Canvas(*size) for size in data.sizes], data.size_weights)
        pairs = min(SHARD_PAIRS, data.cached_pairs)
        return cls(folder, vae, tokenize, canvases, data.captions_per_picture, recipe.seed, pairs, data.composed)

    def reached(self, step: int, cached_pairs: int) -> int:
        """How many shards there are to draw from at `step`: a few at first, more as the run goes."""
        return min(max(1, cached_pairs // self.pairs), 4 + step // _STEPS_PER_SHARD)

    def batch(
        self,
        rng: np.random.Generator,
        shards: int,
        size: int,
        edit: bool,
        device: torch.device,
        share: Share = WHOLE,
    ) -> Batch:
        """A process's share, `size` rows, of a micro-batch from one of the first `shards` shards."""
        shard = self._shard(int(rng.integers(shards)))
        mine = share.rows(size)
        rows = np.sort(rng.integers(self.pairs, size=share.total(size)))[mine]
        if edit:
            return Batch(
                self._latents(shard["target"][rows], device),
                self._latents(shard["source"][rows], device),
                self._ids(shard["edit_ids"][rows], device),
            )
        if self.composed and rng.random() < self.composed:
            return Batch(
                self._latents(shard["composed"][rows], device), None, self._ids(shard["composed_ids"][rows], device)
            )
        side = ("source", "target")[int(rng.integers(2))]
        columns = rng.integers(self.captions, size=share.total(size))[mine]
        ids = shard[f"{side}_ids"][rows, columns]
        return Batch(self._latents(shard[side][rows], device), None, self._ids(ids, device))

    def _latents(self, stored: NDArray[np.generic], device: torch.device) -> Tensor:
        return torch.from_numpy(stored.astype(np.float32)).to(device)

    def _ids(self, stored: NDArray[np.generic], device: torch.device) -> TokenIds:
        joined = torch.from_numpy(stored.astype(np.int64)).to(device)
        first, second, third = torch.split(joined, self.tokenize.lengths, dim=-1)
        return first, second, third

    def _shard(self, index: int) -> dict[str, NDArray[np.generic]]:
        if index not in self._open:
            paths = {field: self.folder / f"{index:04d}-{field}.npy" for field in self.fields}
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / f"{index:04d}.lock"):  # one process makes it, the others wait for it
                if not all(path.exists() for path in paths.values()):
                    self._make(index, paths)
            self._open[index] = {field: np.load(path, mmap_mode="r") for field, path in paths.items()}
        return self._open[index]

    def _make(self, index: int, paths: dict[str, Path]) -> None:
        rng = np.random.default_rng([self.seed, index, 7])
        canvas = self.canvases[index % len(self.canvases)]
        edits = [(composed_edit if self.composed else training_edit)(rng, canvas) for _ in range(self.pairs)]
        arrays: dict[str, NDArray[Any]] = {
            "source": self._encode([edit.source for edit in edits]),
            "target": self._encode([edit.target for edit in edits]),
            "edit_ids": self._tokens([edit.text for edit in edits]),
            "source_ids": self._captions([edit.source for edit in edits], rng),
            "target_ids": self._captions([edit.target for edit in edits], rng),
        }
        if self.composed:
            scenes, captions = zip(*(composed_picture(rng, canvas) for _ in range(self.pairs)), strict=True)
            arrays["composed"] = self._encode(list(scenes))
            arrays["composed_ids"] = self._tokens([caption.text for caption in captions])
        for field, path in paths.items():
            temporary = path.with_suffix(".tmp.npy")
            np.save(temporary, arrays[field])
            temporary.replace(path)

    @torch.inference_mode()
    def _encode(self, scenes: list[Scene]) -> NDArray[np.float16]:
        device, config = self.vae.device, self.vae.config
        parts = []
        for start in range(0, len(scenes), 64):
            images = to_tensor([render(scene) for scene in scenes[start : start + 64]]).to(device)
            with torch.autocast(device.type, enabled=False):  # stored once, so in full precision whatever the loop's
                latents = (self.vae.encode(images).latent_dist.mode() - config.shift_factor) * config.scaling_factor
            parts.append(latents.cpu().numpy().astype(np.float16))
        return np.concatenate(parts)

    def _captions(self, scenes: list[Scene], rng: np.random.Generator) -> NDArray[np.int32]:
        """[pairs, captions, tokens]; a scene that has no caption for training goes without words."""
        texts = []
        for scene in scenes:
            made = [training_caption(scene, rng) for _ in range(self.captions)]
            texts += [caption.text if caption else "" for caption in made]
        return self._tokens(texts).reshape(len(scenes), self.captions, -1)

    def _tokens(self, texts: list[str]) -> NDArray[np.int32]:
        return torch.cat(self.tokenize(texts), dim=-1).numpy().astype(np.int32)


def _by_weight(canvases: list[Canvas], weights: tuple[float, ...], slots: int = 10) -> list[Canvas]:
    """A cycle of canvases in which each occurs by its weight (rounded to tenths, at least once)."""
    cycle: list[Canvas] = []
    for canvas, weight in zip(canvases, weights, strict=True):
        cycle += [canvas] * max(1, round(slots * weight / sum(weights)))
    return cycle
