"""What reports of comparisons show: peers side by side, and two reports against each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..page import Cell, Content, Note, Table
from .figures import amount, error, percent, seconds, times
from .stored import Stored


def compare(report: Stored) -> list[Content]:
    """A table for each task: what each peer took, its ratio to the first, and how far it is from the first's work."""
    contents: list[Content] = []
    for task, found in report.results.items():
        rows: list[list[Cell]] = [_row(row) for row in found["rows"] if row["reason"] is None]
        head = [
            task, "times the first's speed", "median", "quartiles", "differs by", "picture", "loaded in", "first job",
            "memory",
        ]  # fmt: skip
        filled = [place for place in range(len(head)) if any(row[place] for row in rows)]
        contents.append(Table([head[place] for place in filled], [[row[place] for place in filled] for row in rows]))
        left_out = [f"{row['name']}: {row['reason']}" for row in found["rows"] if row["reason"] is not None]
        if left_out:
            contents.append(Note(f"Did not take part. {'. '.join(left_out)}."))
    told = (
        "Ratios are of jobs done turn about, with quartiles. “Differs by” is the largest relative error of the final "
        "latents (of a step: the velocity), “picture” the smallest PSNR, both to the first row's from the same noise."
    )
    return [*contents, Note(told)]


def _row(row: Mapping[str, Any]) -> list[Cell]:
    sample, quality = row["seconds"], row["psnr_db"]
    return [
        row["name"],
        times(row["speedup"]) if row["same"] is not False else "another picture",
        seconds(sample["median"]),
        f"{seconds(sample['low'])}–{seconds(sample['high'])}",
        "" if row["latents_error"] is None else error(row["latents_error"]),
        "" if quality is None else quality if isinstance(quality, str) else f"≥ {quality:.1f} dB",
        _seconds(row.get("load_seconds")),
        _seconds(row.get("first_seconds")),
        amount(row.get("resident_bytes")),
    ]


def _seconds(value: float | None) -> str:
    return "" if value is None else seconds(value)


def fastest(report: Stored) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """(task, row, reference) of the fastest peer of each task that makes the same picture as the reference."""
    for task, found in report.results.items():
        rows = [row for row in found["rows"] if row["speedup"] is not None and row["same"] is not False]
        if rows:
            yield task, max(rows, key=lambda row: float(row["speedup"]["median"])), found["reference"]


def headline(report: Stored) -> str:
    """The fastest of each task."""
    return ", ".join(
        f"{task}: fastest {row['name']}, {times(row['speedup'])} {reference}"
        for task, row, reference in fastest(report)
    )


def changes(report: Stored) -> list[Content]:
    """Every figure of two reports, and its ratio."""
    rows: list[list[Cell]] = [
        [
            change["what"], _in_unit(change["before"], change["unit"]), _in_unit(change["after"], change["unit"]),
            percent(change["ratio"]), f"{percent(change['least'])}–{percent(change['most'])}",
        ]
        for change in report.results["changes"]
    ]  # fmt: skip
    return [Table(["figure", "before", "after", "time it takes, of before", "95 %"], rows)]


def _in_unit(value: float, unit: str) -> str:
    return seconds(value) if unit == "s" else f"{value:.4g} a second"
