"""The goals of an engine on a GPU, each met or missed with its figure; computed from the records of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from .step import Record

Row = Mapping[str, Any]
_HALF = ("fp16", "bf16")


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """One goal on one workload.

    Attributes:
        way: the backend and recipe.
        workload: "generate 512x512".
        goal: in words.
        wanted: the least figure that meets it.
        found: the figure; None where it could not be taken.
        met: whether it is; None where it could not be judged.
        why: it could not be taken or judged.
    """

    way: str
    workload: str
    goal: str
    wanted: float
    found: float | None
    met: bool | None
    why: str = ""


def _times(peer: str) -> Callable[[Row], float | None]:
    return lambda row: row[f"times_{peer}"]["median"] if f"times_{peer}" in row else None


#: Recipes → goals: in words, the least figure, how it is read from an engine's row.
_GOALS: tuple[tuple[tuple[str, ...], str, float, Callable[[Row], float | None]], ...] = (
    (_HALF, "times the speed of PyTorch eager", 2.0, _times("eager")),
    (_HALF, "times the speed of torch.compile", 1.0, _times("compile")),
    (_HALF, "share of the measured arithmetic limit (MFU)", 0.6, lambda row: row.get("mfu_measured")),
    (("fp8",), "times the speed of PyTorch eager", 3.0, _times("eager")),
    (("fp8",), "share of the measured arithmetic limit (MFU)", 0.5, lambda row: row.get("mfu_measured")),
)
_BACKENDS = ("tensorrt_rtx", "tensorrt")


def goals(records: Mapping[str, Record], settings: Mapping[str, object]) -> list[Goal]:
    """The goals of every engine of a GPU that was timed; none of processors, for which there are none.

    A denoiser of fewer layers is not the one that the goals are about: its figures stand, and are not judged.
    """
    if settings["device"] == "cpu":
        return []
    return [goal for record in records.values() for goal in _of(record, settings["layers"] is not None)]


def _of(record: Record, scaled: bool) -> Iterator[Goal]:
    found = record.results
    way = str(found.get("way") or "")
    if record.status != "passed" or not record.name.startswith("denoiser/step/") or not way.startswith(_BACKENDS):
        return
    engine = next(row for row in found["rows"] if row["name"] == "engine")
    for recipes, goal, wanted, read in _GOALS:
        if found["recipe"] in recipes:
            value = read(engine)
            why = "not measured" if value is None else "fewer layers" if scaled else ""
            met = None if value is None or scaled else value >= wanted
            yield Goal(
                way=way, workload=found["workload"], goal=goal, wanted=wanted, found=value, met=met, why=why
            )  # fmt: skip
