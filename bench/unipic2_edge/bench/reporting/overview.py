"""Figures that several reports make together: stages, throughput, quality against latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .figures import middle
from .latency_kind import stage_order
from .points import Point, measured, names
from .stored import Stored, reports_of


def latency_bars(reports: Sequence[Stored]) -> dict[str, dict[str, float]]:
    """Milliseconds of every stage by report and setting: of latency reports, else of rooflines."""
    bars = {
        name: {stage: 1e3 * middle(point["stages"][stage]) for stage in stage_order([point])}
        for name, point in _named(list(reports_of(reports, "latency")))
    }
    # Rooflines call their stages by graph: their bars would not compare with those above.
    return bars or {report.label: _roofline_bar(report.results) for report in reports_of(reports, "roofline")}


def _named(reports: Sequence[Stored], without: str = "") -> list[tuple[str, Point]]:
    """The points of some reports by names that tell them apart: by the report's as well where two are alike.

    Args:
        reports: of one kind.
        without: a field that does not stand in the name.
    """
    found = [(report.label, point) for report in reports for point in measured(report)]
    short = names([{**point, without: None} for _, point in found])
    places = [(name, point.get(without)) for name, (_, point) in zip(short, found, strict=True)]
    alike = len(set(places)) < len(places)
    return [(f"{label}: {name}" if alike else name, point) for name, (label, point) in zip(short, found, strict=True)]


def _roofline_bar(results: dict[str, Any]) -> dict[str, float]:
    bar: dict[str, float] = {}
    for stage in results["stages"]:
        bar[stage["graph"]] = bar.get(stage["graph"], 0.0) + 1e3 * stage["calls"] * stage["seconds"]
    return {**bar, "host": 1e3 * results["host_seconds"]}


def throughput_series(reports: Sequence[Stored], figure: str) -> dict[str, list[tuple[float, float]]]:
    """(batch, figure) by report, bundle and number of pipelines at once; of points that have the figure.

    Args:
        reports: any.
        figure: "pictures_per_second", or "pictures_a_joule".
    """
    series: dict[str, list[tuple[float, float]]] = {}
    for name, point in _named(list(reports_of(reports, "throughput")), without="batch"):
        if figure in point:
            series.setdefault(name, []).append((float(point["batch"]), middle(point[figure])))
    return series


def quality_points(reports: Sequence[Stored]) -> dict[str, tuple[float, float]]:
    """(seconds, right in %) of generation, by recipe.

    From latency and quality reports of the same bundles and settings; without two such, from recipe tables, and from
    quality reports with a comparison. Seconds of different runs do not compare, so that they are not mixed.
    """
    points = _timed_qualities(reports)
    if len(points) > 1:
        return points
    points = {}
    for report in reports_of(reports, "recipes"):
        for row in report.results["rows"]:
            if row["generate_seconds"] is not None and "generate" in row["lost"]:
                points.setdefault(row["recipe"], (row["generate_seconds"], row["lost"]["generate"]["candidate"]))
    for report in reports_of(reports, "quality"):
        score = report.results.get("generation")
        timed = next((row for other in reports_of(reports, "compare") if (row := _timed(other, report))), None)
        if score is not None and timed is not None:
            name = f"{report.settings['bundle']} {report.settings['recipe']}"
            points[name] = (timed["seconds"]["median"], 100 * score["mean"])
    return points


def _timed_qualities(reports: Sequence[Stored]) -> dict[str, tuple[float, float]]:
    """Points of the first latency report that has any: each where a quality report judges the same pictures."""
    for report in reports_of(reports, "latency"):
        points = [point for point in measured(report) if point["task"] == "generate" and point["memory"] is None]
        found = {
            name: (middle(point["stages"]["total"]), 100 * quality.results["generation"]["mean"])
            for name, point in zip(names(points), points, strict=True)
            for quality in reports_of(reports, "quality")
            if _judges(quality, point, report.results["bundles"][point["bundle"]])
        }
        if found:
            return found
    return {}


def _judges(quality: Stored, point: Mapping[str, Any], bundle: Mapping[str, Any]) -> bool:
    """Whether a quality report is of a latency point's pictures: its scores do not depend on the machine."""
    settings = quality.settings
    same = all(settings.get(name) == point[name] for name in ("steps", "guidance", "size"))
    return same and all(settings.get(name) == bundle[name] for name in ("source", "recipe"))


def _timed(compared: Stored, quality: Stored) -> Mapping[str, Any] | None:
    """The row of a comparison that is of the bundle whose quality was measured, with the same settings and machine."""
    names = ("steps", "guidance", "size")
    same = all(compared.settings.get(name) == quality.settings.get(name) for name in names)
    if not same or compared.machine.get("processor") != quality.machine.get("processor"):
        return None
    own = {name: quality.settings.get(name) for name in ("source", "recipe")}
    rows = compared.results.get("generate", {}).get("rows", [])
    return next((row for row in rows if row["seconds"] and own == {name: row.get(name) for name in own}), None)
