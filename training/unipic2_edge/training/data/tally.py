"""What was read of a source and what of it was bad: counted, logged, and at some share too much."""

from __future__ import annotations

import logging

from ..errors import WorkError

logger = logging.getLogger(__name__)
_LEAST = 200  # records: a share of fewer says little
_LOGGED = 10  # bad records of a source that are logged one by one


class Tally:
    """Counts a source's records and shards, and stops the run where too many of them are bad.

    Args:
        name: of the source, as the recipe has it.
        shards: how many it has.
        most: the share of records, and of shards, that may be bad.
    """

    def __init__(self, name: str, shards: int, most: float) -> None:
        self.name, self.shards, self.most = name, shards, most
        self.read = 0
        self.bad = 0
        self.broken: set[str] = set()

    def good(self) -> None:
        """A record was used."""
        self.read += 1

    def bad_record(self, where: str, reason: str) -> None:
        """A record is passed over.

        Raises:
            WorkError: it is one too many.
        """
        self.read += 1
        self.bad += 1
        if self.bad <= _LOGGED:
            last = "; further ones are only counted" if self.bad == _LOGGED else ""
            logger.warning("bad record passed over: %s: %s%s", where, reason, last)
        if self.bad > self.most * max(self.read, _LEAST):
            raise WorkError(
                f"{self.bad} of {self.read} records of {self.name} are bad; the last, {where}: {reason}",
                "mend the data or its fields in the recipe, or raise data.shards.max_bad_share",
            )

    def broken_shard(self, reason: str) -> None:
        """The rest of a shard is passed over; one may always be broken, unless none may.

        Raises:
            WorkError: it is one too many.
        """
        if reason in self.broken:  # again, an epoch later
            return
        self.broken.add(reason)
        logger.warning("broken shard, its rest is passed over: %s", reason)
        if len(self.broken) > (max(1.0, self.most * self.shards) if self.most else 0):
            raise WorkError(
                f"{len(self.broken)} of the {self.shards} shards of {self.name} are broken; the last: {reason}",
                "fetch them again, leave them out, or raise data.shards.max_bad_share",
            )

    def state_dict(self) -> dict[str, object]:
        """The counts."""
        return {"read": self.read, "bad": self.bad, "broken": sorted(self.broken)}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Take counts that `state_dict` gave."""
        self.read, self.bad = int(str(state["read"])), int(str(state["bad"]))
        broken = state["broken"]
        self.broken = set(broken) if isinstance(broken, list) else set()
