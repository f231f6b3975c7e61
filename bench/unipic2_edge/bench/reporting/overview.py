"""Figures that several reports make together: stages, throughput, quality against latency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .figures import middle
from .speed_kinds import stage_tables, throughput_rows
from .stored import Stored, reports_of

_RATES = ("pictures_per_second", "images_per_second", "rate")
_WHOLE = ("total", "end_to_end", "whole")


def latency_bars(reports: Sequence[Stored]) -> dict[str, dict[str, float]]:
    """Milliseconds of every stage by report and setting: of latency reports, else of rooflines."""
    bars: dict[str, dict[str, float]] = {}
    for report in reports_of(reports, "latency"):
        for label, stages in stage_tables(report.results):
            name = f"{report.label}: {label}" if label else report.label
            bars[name] = {stage: 1e3 * middle(found) for stage, found in stages.items() if stage not in _WHOLE}
    # Rooflines call their stages by graph: their bars would not compare with those above.
    return bars or {report.label: _roofline_bar(report.results) for report in reports_of(reports, "roofline")}


def _roofline_bar(results: dict[str, Any]) -> dict[str, float]:
    bar: dict[str, float] = {}
    for stage in results["stages"]:
        bar[stage["graph"]] = bar.get(stage["graph"], 0.0) + 1e3 * stage["calls"] * stage["seconds"]
    return {**bar, "host": 1e3 * results["host_seconds"]}


def throughput_series(reports: Sequence[Stored]) -> dict[str, list[tuple[float, float]]]:
    """(batch, pictures a second) by report and number of requests at once."""
    series: dict[str, list[tuple[float, float]]] = {}
    for report in reports_of(reports, "throughput"):
        for row in throughput_rows(report.results):
            rate = next((row[name] for name in _RATES if name in row), None)
            if rate is not None:
                at_once = row.get("concurrency", 1)
                name = report.label if at_once == 1 else f"{report.label}, {at_once} at once"
                series.setdefault(name, []).append((float(row["batch"]), middle(rate)))
    return series


def quality_points(reports: Sequence[Stored]) -> dict[str, tuple[float, float]]:
    """(seconds, right in %) of generation, by recipe: of recipe tables, and of quality reports with a comparison.

    Seconds of one machine alone are comparable: the first machine's that has any are taken.
    """
    points: dict[str, tuple[float, float]] = {}
    for report in reports_of(reports, "recipes"):
        for row in report.results["rows"]:
            if row["generate_seconds"] is not None and "generate" in row["lost"]:
                points.setdefault(row["recipe"], (row["generate_seconds"], row["lost"]["generate"]["candidate"]))
    for report in reports_of(reports, "quality"):
        score = report.results.get("generation")
        timed = next((other for other in reports_of(reports, "compare") if _same(other, report)), None)
        if score is not None and timed is not None and "generate" in timed.results:
            taken = timed.results["generate"]["runtime_seconds"]["median"]
            points[f"{report.settings['bundle']} {report.settings['recipe']}"] = (taken, 100 * score["mean"])
    return points


def _same(one: Stored, other: Stored) -> bool:
    names = ("source", "recipe", "steps", "guidance", "size")
    same = all(one.settings.get(name) == other.settings.get(name) for name in names)
    return same and one.machine.get("processor") == other.machine.get("processor")
