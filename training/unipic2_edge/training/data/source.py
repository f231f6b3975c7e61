"""One source of records: its shards in a new order every epoch, read without end from wherever it stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import DataError, WorkError
from ..loop.share import Share
from .formats import FORMATS
from .kinds import places_of
from .patterns import PARQUET, find_shards
from .records import BrokenShardError, Place, Raw
from .settings import ShardSource
from .tally import Tally

Located = tuple[Place, Raw]


class Source:
    """Records of one kind from shards of one format.

    With at least as many shards as processes each process has shards of its own; with fewer, every process reads all
    of them and keeps every n-th record.

    Args:
        given: the recipe's.
        number: of this source among those of its kind.
        seed: of the shards' order.
        share: which process of how many this is; together they see an epoch, and nothing twice.
        most_bad: the share of records and of shards that may be bad.

    Raises:
        DataError: no shards match, or not all are there.
    """

    def __init__(self, given: ShardSource, number: int, seed: int, share: Share, most_bad: float) -> None:
        self.given, self.number, self.seed, self.share = given, number, seed, share
        self.shards = find_shards(given.path)
        suffix = self.shards[0].suffix
        self.format = FORMATS[suffix]
        self.names = places_of(given.kind, suffix == PARQUET, given.fields)
        self.wanted = {name.partition(":")[0] for names in self.names.values() for name in names}
        self.tally = Tally(given.path, len(self.shards), most_bad)
        self.epoch, self._turn, self._record, self._offset, self._found = 0, 0, 0, 0, 0
        self._order = self._ordered()
        self._reading: Iterator[Raw] | None = None

    def draw(self) -> Located:
        """The next record of this process's share; after the last of an epoch the first of the next.

        Raises:
            WorkError: too many shards are broken, or a whole epoch had no record.
        """
        while True:
            raw = self._next()
            if raw is None:
                self._next_shard()
                continue
            self._record, self._offset = raw.number + 1, raw.after
            if self._by_shard or raw.number % self.share.world == self.share.rank:
                self._found += 1
                return Place(self.number, self.epoch, self._shard, raw.number, raw.offset), raw

    def again(self, places: Sequence[Place]) -> dict[Place, Raw]:
        """Records that were drawn before, read again.

        Raises:
            WorkError: a shard has changed.
        """
        found: dict[Place, Raw] = {}
        for shard in {place.shard for place in places}:
            here = {(place.offset, place.number) for place in places if place.shard == shard}
            try:
                reading = self.format.read_at(self.shards[shard], sorted(here), self.wanted)
                raws = {raw.offset: raw for raw in reading}
            except BrokenShardError as error:
                raise _changed(self.given.path) from error
            found |= {place: raws[place.offset] for place in places if place.shard == shard}
        return found

    def first(self) -> Raw:
        """The first record of the first shard that has one, to check it before training starts.

        Raises:
            DataError: there is none, or a shard before it is broken.
        """
        for shard in self.shards:
            try:
                raw = next(self.format.read(shard, 0, 0, self.wanted), None)
            except BrokenShardError as error:
                raise DataError(f"broken shard: {error}", "fetch it again, or leave it out") from error
            if raw is not None:
                return raw
        raise DataError(f"{self.given.path} has no records", "leave this source out, or fill it")

    def names_in(self) -> list[str]:
        """The members or columns that the first shard has."""
        return self.format.names_in(self.shards[0])

    def state_dict(self) -> dict[str, Any]:
        """Where it stands."""
        return {
            "files": self._files(),
            "epoch": self.epoch,
            "turn": self._turn,
            "record": self._record,
            "offset": self._offset,
            "found": self._found,
            "tally": self.tally.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was.

        Raises:
            WorkError: the shards are not those of that time.
        """
        if state["files"] != self._files():
            raise _changed(self.given.path)
        self.epoch, self._turn, self._record = state["epoch"], state["turn"], state["record"]
        self._offset, self._found = state["offset"], state["found"]
        self.tally.load_state_dict(state["tally"])
        self._order, self._reading = self._ordered(), None

    def _files(self) -> list[tuple[str, int]]:
        return [(path.name, path.stat().st_size) for path in self.shards]

    @property
    def _by_shard(self) -> bool:
        return len(self.shards) >= self.share.world

    def _ordered(self) -> list[int]:
        """The shards of this process in the order of its epoch."""
        rng = np.random.default_rng([self.seed, self.number, self.epoch])
        order: list[int] = rng.permutation(len(self.shards)).tolist()
        return order[self.share.rank :: self.share.world] if self._by_shard else order

    @property
    def _shard(self) -> int:
        return self._order[self._turn]

    def _next(self) -> Raw | None:
        if self._reading is None:
            self._reading = self.format.read(self.shards[self._shard], self._offset, self._record, self.wanted)
        try:
            return next(self._reading, None)
        except BrokenShardError as error:
            self.tally.broken_shard(str(error))
            return None

    def _next_shard(self) -> None:
        self._reading, self._record, self._offset = None, 0, 0
        self._turn += 1
        if self._turn < len(self._order):
            return
        if not self._found:
            raise WorkError(
                f"{self.given.path} has no record for process {self.share.rank + 1} of {self.share.world}",
                "leave this source out, or give more records than processes",
            )
        self.epoch, self._turn, self._found = self.epoch + 1, 0, 0
        self._order = self._ordered()


def _changed(path: str) -> WorkError:
    return WorkError(
        f"the shards of {path} have changed since the run's state was saved",
        "put back those of that time, or start a new run from the checkpoint",
    )
