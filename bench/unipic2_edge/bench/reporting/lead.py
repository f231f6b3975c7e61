"""What stands at the top of a page of reports: what it is of, and its headline figures."""

from __future__ import annotations

from collections.abc import Sequence

from ..page import Tile
from .figures import percent, seconds
from .stored import Stored, reports_of

_TILES = 6


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
    found: list[Tile] = []
    for report in reports_of(reports, "compare"):
        for task, made in report.results.items():
            ratio = made["speedup"]
            spread = f"quartiles {ratio['low']:.2f}–{ratio['high']:.2f}"
            found.append(Tile(f"{ratio['median']:.2f}×", f"{task}: faster than PyTorch eager", spread))
    for report in reports_of(reports, "quality"):
        for name, score in report.results.items():
            if name in ("generation", "editing"):
                low, high = score["interval_95"]
                found.append(Tile(f"{score['mean']:.2f}", f"{name}, share right", f"95 %: {low:.2f}–{high:.2f}"))
    for report in reports_of(reports, "startup"):
        first = report.results.get("first_picture")
        if first is not None:
            found.append(Tile(seconds(first["median"]), "to the first picture", "from process start"))
    for report in reports_of(reports, "roofline"):
        stage = max(report.results["stages"], key=lambda stage: stage["calls"] * stage["seconds"])
        found.append(Tile(percent(stage["mfu"]), f"of the arithmetic limit: {stage['name']}", report.label))
    return found[:_TILES]
