"""What a report of `bench roofline` shows: a plot, every stage's share of the limits, and the limits."""

from __future__ import annotations

from typing import Any

from ..page import Cell, Content, Note, Plot, Table
from . import plots
from .figures import amount, percent, seconds
from .stored import Stored


def roofline(report: Stored) -> list[Content]:
    """The roofline plot and its table."""
    found = report.results
    limits = _limits(report)
    rows: list[list[Cell]] = [_row(stage, found["seconds"]) for stage in found["stages"]]
    host = found["host_seconds"]
    rows.append(["host, between the graphs", "", "", "", seconds(host), percent(host / found["seconds"]), "", "", ""])
    head = ["stage", "calls", "GFLOP a call", "weights + border", "all calls", "of the run", "MFU", "MBU", "bound by"]
    told = (
        f"{limits['device']}, {limits['source']}. MFU and MBU are the achieved shares of the fastest product and of "
        "the fastest copy; “overhead”: neither limit explains the time."
    )
    return [_plot(report, limits), Table(head, rows), Note(told)]


def _row(stage: dict[str, Any], whole: float) -> list[Cell]:
    work, taken = stage["work"], stage["calls"] * stage["seconds"]
    return [
        stage["name"], str(stage["calls"]), f"{_operations(work) / 1e9:.3g}", amount(work["least_bytes"]),
        seconds(taken), percent(taken / whole), percent(stage["mfu"]), percent(stage["mbu"]), stage["by"],
    ]  # fmt: skip


def _plot(report: Stored, limits: dict[str, Any]) -> Plot:
    stages = report.results["stages"]
    used = {name for stage in stages for name in stage["work"]["matrix"]}
    roofs = {name: rate for name, rate in limits["rates"].items() if name in used}
    points = {
        stage["name"]: (
            sum(stage["work"]["matrix"].values()) / stage["work"]["least_bytes"],
            sum(stage["work"]["matrix"].values()) / stage["seconds"],
        )
        for stage in stages
    }
    svg = plots.roofline(f"roofline-{report.label}", roofs, limits["bandwidth"], points)
    caption = (
        "Each point is a graph: how many operations it does for every byte that it must move, and how many it does "
        "in a second. Under the slope memory is the limit, under the roof the arithmetic; the further below, the more "
        "is lost to overhead."
    )
    return Plot(svg, caption)


def _limits(report: Stored) -> dict[str, Any]:
    found: dict[str, Any] = report.results["limits"]["measured"] or report.results["limits"]["advertised"]
    return found


def _operations(work: dict[str, Any]) -> int:
    total: int = sum(work["matrix"].values()) + work["other"]
    return total
