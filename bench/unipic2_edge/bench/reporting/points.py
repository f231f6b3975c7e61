"""Points of a sweep as reports show them: in an order that puts side by side what compares, named by what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .stored import Stored

Point = Mapping[str, Any]
_FIELDS = ("bundle", "task", "size", "steps", "memory", "batch", "concurrency")
_WORDS = {"steps": "{} steps", "batch": "batch {}", "concurrency": "{} at once"}


def measured(report: Stored) -> list[Point]:
    """The points that were run: the same task, size and steps of all bundles follow each other."""
    points = [point for point in report.results["points"] if "refused" not in point]
    tasks = list(dict.fromkeys(point["task"] for point in points))
    sizes = list(dict.fromkeys(point["size"] for point in points))
    return sorted(
        points, key=lambda p: (tasks.index(p["task"]), sizes.index(p["size"]), -(p["steps"] or 0), str(p["memory"]))
    )


def refused(report: Stored) -> list[str]:
    """The points that could not be run, and why, in a line each."""
    return [f"{point['name']}: {point['refused']}" for point in report.results["points"] if "refused" in point]


def names(points: Sequence[Point]) -> list[str]:
    """A name for each point: the task, and whatever else differs between them."""
    differing = [field for field in _FIELDS if field == "task" or len({str(point.get(field)) for point in points}) > 1]
    return [
        ", ".join(_WORDS.get(field, "{}").format(point[field]) for field in differing if point.get(field) is not None)
        for point in points
    ]


def common(points: Sequence[Point]) -> str:
    """What all points share, in words."""
    shared = [field for field in _FIELDS if field != "task" and len({str(point.get(field)) for point in points}) == 1]
    told = [_WORDS.get(field, "{}").format(points[0][field]) for field in shared if points[0].get(field) is not None]
    return ", ".join(told)


def leading(points: Sequence[Point]) -> list[Point]:
    """The first point of each bundle and task: the one that its maker named first."""
    found: dict[tuple[str, str], Point] = {}
    for point in points:
        found.setdefault((point["bundle"], point["task"]), point)
    return list(found.values())
