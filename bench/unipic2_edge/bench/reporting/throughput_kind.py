"""What a report of `bench throughput` shows: pictures a second, what a batch takes, energy or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..page import Cell, Content, Note, Table
from ..throughput.record import energy_lines
from .figures import Fields, seconds
from .points import common, measured, names, refused
from .stored import Stored


def throughput(report: Stored) -> list[Content]:
    """A line for each batch and number of pipelines at once."""
    points = measured(report)
    if not points:
        return [Note(line) for line in refused(report)]
    first: dict[str, float] = {}
    rows: list[list[Cell]] = []
    for name, point in zip(names(points), points, strict=True):
        rate = point["pictures_per_second"]
        base = first.setdefault(point["bundle"], rate["median"])
        rows.append([
            name, f"{rate['median']:.3g} ({rate['low']:.3g}–{rate['high']:.3g})", f"{rate['median'] / base:.2f}×",
            seconds(point["seconds_of_a_batch"]["p50"]), seconds(point["seconds_of_a_batch"]["p99"]),
            _figure(point, "joules_a_picture"), _figure(point, "pictures_a_joule"),
        ])  # fmt: skip
    head = [
        "setting", "pictures a second (quartiles)", "of the bundle's first", "a batch", "p99", "joules a picture",
        "pictures a joule",
    ]  # fmt: skip
    told = (
        f"All of {common(points)}. Settings took turns, burst by burst; what works at once shares "
        f"{report.settings['threads']} CPU threads. A picture waits for its whole batch."
    )
    notes = [f"{line}." for line in [*energy_lines(report.results["energy"]), *refused(report)]]
    return [Note(told), Table(head, rows), *(Note(line[0].upper() + line[1:]) for line in notes)]


def _figure(point: Mapping[str, Any], name: str) -> str:
    found: Fields | None = point.get(name)
    return "not readable" if found is None else f"{found['median']:.3g}"
