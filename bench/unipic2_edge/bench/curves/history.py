"""The history of one or more runs of training, read from their `log.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from unipic2_edge.runtime.errors import RequestError

LOG = "log.jsonl"
Axis = Literal["steps", "samples", "hours"]


@dataclass(frozen=True)
class Moment:
    """Where a run stood, counted from the history's beginning, and what was logged there.

    `hours` are those of the training steps alone, looks and pauses left out.
    """

    steps: int
    samples: float
    hours: float
    values: dict[str, float]

    def at(self, axis: Axis) -> float:
        """The place on an axis."""
        return float(getattr(self, axis))


@dataclass(frozen=True)
class History:
    """What one curve is of: a run, or several of which each went on from the one before.

    `joints` are the moments at which one run ended and the next began.
    """

    name: str
    moments: tuple[Moment, ...]
    joints: tuple[Moment, ...] = ()

    def names(self) -> list[str]:
        """Everything that was logged, in the order in which it appeared."""
        return list(dict.fromkeys(name for moment in self.moments for name in moment.values))

    def curve(self, value: str, axis: Axis) -> list[tuple[float, float]]:
        """The points of one value, in order; of several at one place the last."""
        return sorted({m.at(axis): m.values[value] for m in self.moments if value in m.values}.items())


def read_history(name: str, runs: Sequence[Path]) -> History:
    """Read runs, the later ones appended.

    Args:
        name: of the curve.
        runs: folders of runs, or their logs.

    Raises:
        RequestError: a log is missing, or is none.
    """
    moments: list[Moment] = []
    joints: list[Moment] = []
    for run in runs:
        start = moments[-1] if moments else Moment(0, 0.0, 0.0, {})
        if moments:
            joints.append(replace(start, values={}))
        moments += _moments(run / LOG if run.is_dir() else run, start)
    return History(name, tuple(moments), tuple(joints))


def _moments(path: Path, start: Moment) -> Iterator[Moment]:
    samples, hours, before = start.samples, start.hours, 0
    for record in _records(path):
        step = int(record.pop("step"))
        seconds = record.get("seconds_per_step", 0.0) * (step - before)
        if seconds:
            hours += seconds / 3600
            samples += record.get("samples_per_second", 0.0) * seconds
            before = step
        yield Moment(start.steps + step, samples, hours, record)


def _records(path: Path) -> Iterator[dict[str, float]]:
    """A log's lines as numbers; a value that was not finite is null there, and left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"the log {path} cannot be read: {error}", "give a run's folder, or its log.jsonl"
        ) from error
    for number, line in enumerate(lines, 1):
        try:
            record: Any = json.loads(line)
            yield {str(name): float(value) for name, value in record.items() if value is not None} | {
                "step": int(record["step"])
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RequestError(f"{path}, line {number} is no record of a run", "give a run's log.jsonl") from error
