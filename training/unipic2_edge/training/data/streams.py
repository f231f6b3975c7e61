"""The streams of a recipe's sources, one for each kind of record, checked before training starts."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..errors import DataError, RecipeError
from ..loop.share import WHOLE, Share
from ..recipe import Recipe
from .buckets import buckets
from .cache import Cache
from .kinds import FIELDS, Kind
from .records import BadRecordError, Place
from .samples import Preparer, Sample, SmallPictureError
from .source import Source
from .stream import Stream


class ShardStreams:
    """Micro-batches by kind, and the state that goes with a run's.

    The first record of every source is read here, so that what is wrong with all of them is found at once.

    Args:
        recipe: with `data.kind = "shards"`.
        kinds: those that the stage trains on.
        cache: of latents, or none.

    Raises:
        RecipeError: a kind has no source, or a source a kind that the stage has no use for.
        DataError: shards are missing or broken, or the first record of a source has not what it should.
    """

    def __init__(self, recipe: Recipe, kinds: Sequence[Kind], cache: Cache | None = None) -> None:
        self.recipe, self.kinds, self.cache = recipe, kinds, cache
        self.buckets = buckets(recipe.data.sizes, recipe.data.shards.side, recipe.data.shards.longest)
        self.pool = ThreadPoolExecutor(recipe.data.shards.workers, "decode")
        self._check_kinds()
        for kind in kinds:
            sources = self._sources(kind, WHOLE)
            for source in sources:
                _check_first(source, self._preparer(kind, sources, None))
        self._streams: dict[Kind, Stream] = {}

    def begin(self, share: Share) -> None:
        """Read as this process of so many; the first call counts."""
        if not self._streams:
            self._streams = {kind: self._stream(kind, share) for kind in self.kinds}

    def batch(self, kind: Kind) -> list[Sample]:
        """The next micro-batch of a kind: samples of one size.

        Raises:
            WorkError: too much of the data is bad.
        """
        return self._streams[kind].batch()

    def beginning(self, kind: Kind, count: int) -> Stream:
        """A stream beside the others: the sources as they lie from the beginning, nothing cached, `count` at once."""
        sources = self._sources(kind, WHOLE)
        return Stream(sources, self._preparer(kind, sources, None), self.pool, count, 1, self._seed(kind))

    def _stream(self, kind: Kind, share: Share) -> Stream:
        sources, shuffle = self._sources(kind, share), self.recipe.data.shards.shuffle
        prepare = self._preparer(kind, sources, self.cache)
        return Stream(sources, prepare, self.pool, self.recipe.batch_size, shuffle, self._seed(kind))

    def counts(self) -> dict[str, float]:
        """Epochs begun and bad records, to be logged."""
        sources = [source for stream in self._streams.values() for source in stream.sources]
        epochs = {f"epoch_{kind}": min(each.epoch for each in self._streams[kind].sources) for kind in self._streams}
        return {"bad_records": float(sum(source.tally.bad for source in sources)), **epochs}

    def state_dict(self) -> dict[str, Any]:
        """Where every stream stands in this process."""
        return {kind: stream.state_dict() for kind, stream in self._streams.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from where `state_dict` was.

        Raises:
            WorkError: the data are not those of that time.
        """
        for kind, stream in self._streams.items():
            stream.load_state_dict(state_dict[kind])

    def _seed(self, kind: Kind) -> int:
        return self.recipe.seed * len(FIELDS) + list(FIELDS).index(kind)

    def _sources(self, kind: Kind, share: Share) -> list[Source]:
        given = [source for source in self.recipe.data.sources if source.kind == kind]
        most = self.recipe.data.shards.max_bad_share
        return [Source(each, number, self._seed(kind), share, most) for number, each in enumerate(given)]

    def _preparer(self, kind: Kind, sources: Sequence[Source], cache: Cache | None) -> Preparer:
        return Preparer(kind, self.recipe.data.shards, self.buckets, sources, self._seed(kind), cache)

    def _check_kinds(self) -> None:
        given = {source.kind for source in self.recipe.data.sources}
        for kind in self.kinds:
            if kind not in given:
                raise RecipeError(
                    f"{self.recipe.name}: data.sources has no {kind}",
                    "add a source of this kind, or set data.edit_share so that none is needed (0: captions, 1: edits)",
                )
        useless = sorted(given.difference(self.kinds))
        if useless:
            raise RecipeError(
                f"{self.recipe.name}: nothing is trained on {useless[0]} here",
                "leave these sources out, or give them a share (data.edit_share)",
            )


def _check_first(source: Source, prepare: Preparer) -> None:
    """The first record of a source made ready, whose mistakes are most likely those of all."""
    raw = source.first()
    try:
        prepare((Place(source.number, 0, 0, raw.number, raw.offset), raw))
    except SmallPictureError:
        return
    except BadRecordError as error:
        raise DataError(
            f"the first record of {source.given.path} ({raw.key}) is bad: {error}",
            f"its fields are {', '.join(source.names_in())}; see training/README.md for how a recipe names them",
        ) from error
