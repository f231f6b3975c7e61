"""What stands at the top of a page of reports: what it is of, and its headline figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ..page import Tile
from .compare_kind import fastest
from .figures import middle, percent, seconds
from .points import leading, measured
from .stored import Stored, reports_of

_TILES = 8


def lead(reports: Sequence[Stored]) -> str:
    """A sentence: how many reports, of what, when, and where."""
    kinds = ", ".join(dict.fromkeys(report.benchmark for report in reports))
    machines = dict.fromkeys(str(report.machine.get("processor", "an unknown machine")) for report in reports)
    days = sorted(report.when[:10] for report in reports)
    when = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    count = "One report" if len(reports) == 1 else f"{len(reports)} reports"
    return f"{count} ({kinds}), measured on {'; '.join(machines)}, {when}. Settings and versions stand with each."


def tiles(reports: Sequence[Stored]) -> list[Tile]:
    """Headline figures of the kinds that have one."""
    found = [tile for kind, tell in _TELL.items() for report in reports_of(reports, kind) for tile in tell(report)]
    return found[:_TILES]


def _latency(report: Stored) -> Iterator[Tile]:
    for point in leading(measured(report)):
        total, steps = point["stages"]["total"], f", {point['steps']} steps" if point["steps"] else ""
        told = f"{point['bundle']}, {point['size']}{steps}; p99 {seconds(total['p99'])}"
        yield Tile(seconds(total["p50"]), point["task"], told)


def _throughput(report: Stored) -> Iterator[Tile]:
    best = max(measured(report), key=lambda point: middle(point["pictures_per_second"]), default=None)
    if best is not None:
        told = f"{best['bundle']}, batch {best['batch']}, {best['concurrency']} at once"
        yield Tile(f"{middle(best['pictures_per_second']):.3g}", "pictures a second at best", told)


def _compare(report: Stored) -> Iterator[Tile]:
    for task, row, reference in fastest(report):
        ratio = row["speedup"]
        spread = f"{row['name']}; quartiles {ratio['low']:.2f}–{ratio['high']:.2f}"
        yield Tile(f"{ratio['median']:.2f}×", f"{task}: times {reference}", spread)


def _quality(report: Stored) -> Iterator[Tile]:
    for name, score in report.results.items():
        if name in ("generation", "editing"):
            low, high = score["interval_95"]
            yield Tile(f"{score['mean']:.2f}", f"{name}, share right", f"95 %: {low:.2f}–{high:.2f}")


def _startup(report: Stored) -> Iterator[Tile]:
    first = report.results.get("first_picture")
    if first is not None:
        yield Tile(seconds(first["median"]), "to the first picture", "from process start")


def _roofline(report: Stored) -> Iterator[Tile]:
    stage = max(report.results["stages"], key=lambda stage: stage["calls"] * stage["seconds"])
    yield Tile(percent(stage["mfu"]), f"of the arithmetic limit: {stage['name']}", report.label)


_TELL: dict[str, Callable[[Stored], Iterator[Tile]]] = {
    "latency": _latency,
    "throughput": _throughput,
    "compare": _compare,
    "quality": _quality,
    "startup": _startup,
    "roofline": _roofline,
}
