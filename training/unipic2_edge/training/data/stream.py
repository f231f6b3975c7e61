"""The endless stream of one kind's samples: drawn by weight, shuffled, decoded by threads, gathered by size.

All that is random is a function of the seed and of how many records were drawn. The state is made of places, not of
bytes: where every source stands, and which records wait in the shuffle buffer, for a thread, or for others of their
size. They are read again when a run goes on, so it sees exactly the samples it would have seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np

from ..errors import WorkError
from .pictures import Size
from .records import BadRecordError, Place
from .samples import Sample, SmallPictureError
from .source import Located, Source

_MOST_SMALL = 2000  # records in a row that are too small for their sizes


class Stream:
    """Micro-batches of one size each.

    Args:
        sources: of one kind.
        prepare: a record → its sample.
        pool: threads for it.
        batch_size: samples of a micro-batch.
        shuffle: records of the shuffle buffer.
        seed: of all that is drawn.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        prepare: Callable[[Located], Sample],
        pool: Executor,
        batch_size: int,
        shuffle: int,
        seed: int,
    ) -> None:
        self.sources, self.prepare, self.pool = sources, prepare, pool
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        weights = np.array([source.given.weight for source in sources])
        self._bounds = np.cumsum(weights / weights.sum())
        self._read, self._drawn, self._small = 0, 0, 0
        self._buffer: list[Located] = []
        self._decoding: deque[tuple[Located, Future[Sample]]] = deque()
        self._waiting: dict[Size, list[Sample]] = {}

    def batch(self) -> list[Sample]:
        """The next micro-batch; sizes come as often as records have them.

        Raises:
            WorkError: too many records or shards are bad, or none has a size that can be used.
        """
        while True:
            sample = self._next()
            waiting = self._waiting.setdefault(sample.size, [])
            waiting.append(sample)
            if len(waiting) == self.batch_size:
                return self._waiting.pop(sample.size)

    def _next(self) -> Sample:
        while True:
            while len(self._decoding) < 2 * self.batch_size:
                located = self._draw()
                self._decoding.append((located, self.pool.submit(self.prepare, located)))
            located, future = self._decoding.popleft()
            tally = self.sources[located[0].source].tally
            try:
                sample = future.result()
            except SmallPictureError as error:
                self._pass_over(str(error))
            except BadRecordError as error:
                tally.bad_record(self._where(located), str(error))
            else:
                self._small = 0
                tally.good()
                return sample

    def _draw(self) -> Located:
        """A random one of the shuffle buffer, whose place the next record takes."""
        while len(self._buffer) < self.shuffle:
            self._buffer.append(self._from_source())
        rng = np.random.default_rng([self.seed, 1, self._drawn])
        self._drawn += 1
        index = int(rng.integers(len(self._buffer)))
        drawn, self._buffer[index] = self._buffer[index], self._from_source()
        return drawn

    def _from_source(self) -> Located:
        if len(self.sources) == 1:
            return self.sources[0].draw()
        where = np.random.default_rng([self.seed, 2, self._read]).random()
        self._read += 1
        return self.sources[int(np.searchsorted(self._bounds[:-1], where, side="right"))].draw()

    def _pass_over(self, reason: str) -> None:
        self._small += 1
        if self._small >= _MOST_SMALL:
            raise WorkError(
                f"{self._small} records in a row are too small for their sizes; the last: {reason}",
                "train at smaller sizes, or raise data.shards.max_enlargement",
            )

    def _where(self, located: Located) -> str:
        place, raw = located
        return f"{self.sources[place.source].shards[place.shard]}, record {place.number} ({raw.key})"

    def state_dict(self) -> dict[str, Any]:
        """Where it stands."""
        return {
            "sources": [source.state_dict() for source in self.sources],
            "read": self._read,
            "drawn": self._drawn,
            "small": self._small,
            "buffer": [tuple(place) for place, _ in self._buffer],
            "decoding": [tuple(place) for (place, _), _ in self._decoding],
            "waiting": [(size, [tuple(sample.place) for sample in group]) for size, group in self._waiting.items()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was.

        Raises:
            WorkError: the data are not those of that time.
        """
        if len(state["sources"]) != len(self.sources):
            raise WorkError(
                f"the run's state is of {len(state['sources'])} sources, the recipe has {len(self.sources)}",
                "give the sources of that time, or start a new run from the checkpoint",
            )
        for source, its in zip(self.sources, state["sources"], strict=True):
            source.load_state_dict(its)
        self._read, self._drawn, self._small = state["read"], state["drawn"], state["small"]
        waiting = [place for _, group in state["waiting"] for place in group]
        again = self._again([Place(*place) for place in [*state["buffer"], *state["decoding"], *waiting]])
        self._buffer = [again[Place(*place)] for place in state["buffer"]]
        ready = [again[Place(*place)] for place in state["decoding"]]
        self._decoding = deque((located, self.pool.submit(self.prepare, located)) for located in ready)
        self._waiting = {
            tuple(size): list(self.pool.map(self.prepare, [again[Place(*place)] for place in group]))
            for size, group in state["waiting"]
        }

    def _again(self, places: list[Place]) -> dict[Place, Located]:
        found: dict[Place, Located] = {}
        for number, source in enumerate(self.sources):
            raws = source.again([place for place in places if place.source == number])
            found |= {place: (place, raw) for place, raw in raws.items()}
        return found
