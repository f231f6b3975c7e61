"""Whether a later report is slower than an earlier one, by more than a tolerance and beyond both spreads.

`slower` compares two stored reports of one kind, `slower_of_two` two bundles of one latency report, whose runs were
taken turn about: there the machine's moods cancel. Both judge the lower end of the 95 % interval of the ratio of
medians, so that noise alone seldom fails, and say what they found as a list that is empty when all is well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unipic2_edge.runtime.errors import RequestError

from .statistics import ratios

Report = Mapping[str, Any]
#: A normal sample's median has the standard error 1.2533·σ/√n, and its quartiles lie 1.349·σ apart.
_MEDIAN_ERROR = 1.2533 / 1.349
_NORMAL_95 = 1.96
#: What tells the points of latency and throughput reports apart, but for the bundle.
_POINT = ("task", "size", "steps", "guidance", "memory", "batch", "concurrency")
#: Settings with which two reports must have been measured to be comparable.
_SAME_SETTINGS = ("threads", "device", "steps", "guidance", "size")


@dataclass(frozen=True)
class Change:
    """One figure before and after.

    Attributes:
        what: the figure.
        before: its median.
        after: the later median.
        unit: "s", or "1/s" for rates.
        ratio: how many times as long it takes now: above 1 is slower, for rates too.
        least: the lower end of the 95 % interval of the ratio.
        most: the upper end.
    """

    what: str
    before: float
    after: float
    unit: str
    ratio: float
    least: float
    most: float

    def line(self) -> str:
        """For people."""
        shown = f"{self.before:.4g} {self.unit} → {self.after:.4g} {self.unit}"
        return f"{self.what}: {shown}, {self.ratio:.3f}× as long (95 %: {self.least:.3f}–{self.most:.3f})"


@dataclass(frozen=True)
class _Sample:
    median: float
    error: float  # the standard error of the median
    rate: bool


def slower(before: Report, after: Report, tolerance: float) -> list[Change]:
    """The figures of a report that take longer than in an earlier one by more than the tolerance, surely.

    Args:
        before: the earlier report's fields, as `Report.to_dict` gives them.
        after: the later report's.
        tolerance: a share: 0.05 lets 5 % pass.

    Raises:
        RequestError: see `changes`.
    """
    return [change for change in changes(before, after) if change.least > 1 + tolerance]


def changes(before: Report, after: Report) -> list[Change]:
    """Every figure that both reports have.

    Raises:
        RequestError: the reports are of different kinds, machines or settings, of a kind whose figures do not
            compare, damaged, or have nothing in common.
    """
    kind = str(after.get("benchmark"))
    _check_comparable(before, after)
    read = _KINDS.get(kind)
    if read is None:
        raise RequestError(f"reports of {kind} have no speeds to compare", f"give reports of {', '.join(_KINDS)}")
    try:
        earlier, later = dict(read(before)), dict(read(after))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RequestError(f"a report is damaged: {type(error).__name__}: {error}", "measure it again") from error
    found = [_change(name, earlier[name], later[name]) for name in later if name in earlier]
    if not found:
        raise RequestError("the reports have no figure in common", "measure both with the same bundle and settings")
    return found


def slower_of_two(report: Report, before: str, after: str, tolerance: float) -> list[Change]:
    """The points at which one bundle of a latency report takes longer than another, surely.

    Args:
        report: of `bench latency` with both bundles.
        before: the label of the bundle that sets the pace.
        after: the label of the bundle that is judged.
        tolerance: a share.

    Raises:
        RequestError: the report has no points that both bundles share.
    """
    points = _measured(report)
    found = []
    for point in points:
        twin = next((p for p in points if p["bundle"] == before and _place(p) == _place(point)), None)
        if point["bundle"] == after and twin is not None:
            found.append(_paired(point, twin))
    if not found:
        raise RequestError(f"{before} and {after} share no point of this report", "measure both in one run")
    return [change for change in found if change.least > 1 + tolerance]


def _paired(point: Mapping[str, Any], twin: Mapping[str, Any]) -> Change:
    """Runs that were made one right after the other are compared pair by pair."""
    count = min(len(point["samples"]), len(twin["samples"]))
    found = ratios(point["samples"][:count], twin["samples"][:count])
    margin = _NORMAL_95 * _error_of(found.low, found.high, found.count)
    before, after = (_median(place["stages"]["total"]) for place in (twin, point))
    return Change(_name(point), before, after, "s", found.median, found.median - margin, found.median + margin)


def _change(name: str, before: _Sample, after: _Sample) -> Change:
    """Both medians' relative errors add up as independent ones do."""
    ratio = before.median / after.median if before.rate else after.median / before.median
    margin = _NORMAL_95 * ratio * math.hypot(before.error / before.median, after.error / after.median)
    unit = "1/s" if before.rate else "s"
    return Change(name, before.median, after.median, unit, ratio, ratio - margin, ratio + margin)


def _check_comparable(before: Report, after: Report) -> None:
    if before.get("benchmark") != after.get("benchmark"):
        raise RequestError(
            f"a report of {before.get('benchmark')} and one of {after.get('benchmark')} do not compare",
            "give two of one kind",
        )
    for name in ("processor", "cores", "gpus"):
        _check_same(before["machine"], after["machine"], name, "on one machine")
    for name in _SAME_SETTINGS:
        _check_same(before["settings"], after["settings"], name, "with the same settings")


def _check_same(before: Mapping[str, Any], after: Mapping[str, Any], name: str, mend: str) -> None:
    if before.get(name) != after.get(name):
        raise RequestError(
            f"the reports differ in {name}: {before.get(name)} and {after.get(name)}", f"measure both {mend}"
        )


def _sample(fields: Mapping[str, Any], rate: bool = False) -> _Sample:
    return _Sample(_median(fields), _error_of(fields["low"], fields["high"], fields["count"]), rate)


def _median(fields: Mapping[str, Any]) -> float:
    return float(fields["p50"] if "p50" in fields else fields["median"])


def _error_of(low: float, high: float, count: int) -> float:
    """The standard error of a median, from the quartiles (McGill, Tukey and Larsen, The American Statistician 32/1)."""
    return _MEDIAN_ERROR * (high - low) / math.sqrt(count)


def _place(point: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(point.get(name) for name in _POINT)


def _name(point: Mapping[str, Any]) -> str:
    told = [f"{name} {point[name]}" if name != "task" else str(point[name]) for name in _POINT if point.get(name)]
    return f"{point['bundle']}: {', '.join(told)}"


def _latency(report: Report) -> Iterator[tuple[str, _Sample]]:
    for point in _measured(report):
        yield _name(point), _sample(point["stages"]["total"])
        if point["task"] == "describe":
            yield f"{_name(point)}, to the first token", _sample(point["to_first_token"])
    for bundle, found in report["results"]["cold"].items():
        yield f"{bundle}: process start to the first picture", _sample(found["first_picture"])


def _throughput(report: Report) -> Iterator[tuple[str, _Sample]]:
    for point in _measured(report):
        yield _name(point), _sample(point["pictures_per_second"], rate=True)


def _measured(report: Report) -> list[Mapping[str, Any]]:
    """The points of a sweep that were not refused."""
    return [point for point in report["results"]["points"] if "refused" not in point]


def _startup(report: Report) -> Iterator[tuple[str, _Sample]]:
    for name, found in report["results"].items():
        yield name, _sample(found)


def _compare(report: Report) -> Iterator[tuple[str, _Sample]]:
    for task, found in report["results"].items():
        for row in found["rows"]:
            if row["seconds"] is not None:
                yield f"{row['name']}: {task}", _sample(row["seconds"])


def _serve(report: Report) -> Iterator[tuple[str, _Sample]]:
    for name in ("bare", "single", "batched"):
        yield name, _sample(report["results"][name], rate=True)


_KINDS: dict[str, Callable[[Report], Iterator[tuple[str, _Sample]]]] = {
    "latency": _latency,
    "throughput": _throughput,
    "startup": _startup,
    "compare": _compare,
    "serve": _serve,
}


def kinds() -> Sequence[str]:
    """The kinds of reports whose speeds compare."""
    return tuple(_KINDS)


def read_tolerance(text: str) -> float:
    """A share from "5%" or "0.05".

    Raises:
        RequestError: it is neither, or not from 0 to 1.
    """
    number = text.removesuffix("%")
    try:
        share = float(number) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise RequestError(f"{text!r} is no tolerance", "give one like 5%")
    return share
