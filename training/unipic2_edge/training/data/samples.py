"""From a record's bytes to a sample: texts, and pictures cut to a bucket's size, or their latents if cached."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..shapes.render import Picture
from .buckets import Buckets
from .cache import Cache
from .kinds import FIELDS, Kind
from .pictures import Encoded, Size
from .records import BadRecordError, Place, bytes_of, picked, text_of
from .settings import Shards
from .source import Located, Source

_SAME_SHAPE = 0.03  # of the logarithm of the ratio of sides: rounding to whole pixels


class SmallPictureError(BadRecordError):
    """A picture is too small for its bucket: the record is passed over, but nothing is wrong with it."""


@dataclass(frozen=True)
class View:
    """A picture as it is encoded: `key` says which bytes, size and part; its latents [C, h, w] if they are cached."""

    key: str
    picture: Picture | None
    latents: Tensor | None = None


@dataclass(frozen=True)
class Sample:
    """A record made ready: texts and views in the order of its kind's fields, all views of one size."""

    place: Place
    texts: tuple[str, ...]
    size: Size
    views: tuple[View, ...]


class Preparer:
    """Makes samples of the records of one kind; called from many threads.

    Args:
        kind: of the records.
        shards: the recipe's settings.
        buckets: the sizes.
        sources: where the records come from.
        seed: of random crops.
        cache: of latents, or none.
    """

    def __init__(
        self, kind: Kind, shards: Shards, buckets: Buckets, sources: Sequence[Source], seed: int, cache: Cache | None
    ) -> None:
        self.fields, self.shards, self.buckets, self.sources = FIELDS[kind], shards, buckets, sources
        self.seed, self.cache = seed, cache

    def __call__(self, located: Located) -> Sample:
        """The sample of a record.

        Raises:
            SmallPictureError: a picture would be enlarged too much.
            BadRecordError: a field is missing or wrong, a picture does not decode, is too large, or source and target
                differ in shape.
        """
        place, raw = located
        names = self.sources[place.source].names
        longest = self.shards.max_characters
        texts = tuple(text_of(picked(raw.values, names[field]), longest) for field in self.fields.texts)
        contents = [bytes_of(picked(raw.values, names[field])) for field in self.fields.pictures]
        pictures = [Encoded(content, self.shards.max_pixels) for content in contents]
        size = self.buckets.of(pictures[-1].size)
        for picture in pictures:
            self._check(picture.size, pictures[-1].size, size)
        at = self._crop(place)
        return Sample(place, texts, size, tuple(self._view(picture, size, at) for picture in pictures))

    def _check(self, size: Size, target: Size, bucket: Size) -> None:
        if abs(math.log(size[0] / size[1]) - math.log(target[0] / target[1])) > _SAME_SHAPE:
            raise BadRecordError(f"source and target differ in shape: {size[0]}×{size[1]} and {target[0]}×{target[1]}")
        if max(bucket[0] / size[0], bucket[1] / size[1]) > self.shards.max_enlargement:
            raise SmallPictureError(f"a picture of {size[0]}×{size[1]} is small for {bucket[0]}×{bucket[1]}")

    def _crop(self, place: Place) -> tuple[float, float]:
        """Where to crop: a function of the record, and of the epoch if nothing is cached."""
        if self.shards.crop == "center":
            return 0.5, 0.5
        epoch = 0 if self.cache else place.epoch
        across, down = np.random.default_rng([self.seed, place.source, epoch, place.shard, place.number]).random(2)
        return float(across), float(down)

    def _view(self, picture: Encoded, size: Size, at: tuple[float, float]) -> View:
        digest = hashlib.sha256(picture.content)
        digest.update(f"{size} {at}".encode())
        key = digest.hexdigest()
        found = self.cache.get(key) if self.cache else None
        if found is not None:
            return View(key, None, found["latents"])
        return View(key, picture.cut(size, at))
