"""What reports on cards show: `bench engines`, `memory` and `predict`."""

from __future__ import annotations

from typing import Any

from ..engine_table import Row, table_cells
from ..page import Cell, Content, Note, Table
from .figures import amount, percent, seconds
from .stored import Stored


def engines(report: Stored) -> list[Content]:
    """Every graph compiled for every target, or why not."""
    rows = [
        Row(**{**row, "shared_with": tuple(row["shared_with"]), "predicted": None}) for row in report.results["rows"]
    ]
    head, *lines = table_cells(rows)
    errors = ", ".join(f"{name.replace('_', ' ')} {percent(value)}" for name, value in _errors(report).items())
    return [Table(head, lines), Note(f"Largest error of what was predicted before compiling: {errors}.")]


def memory(report: Stored) -> list[Content]:
    """What cards of some sizes hold at once."""
    rows: list[list[Cell]] = []
    for rung in report.results["ladder"]:
        plan, card = rung["plan"], f"{rung['budget'] / 1e9:g} GB"
        if plan is None:
            rows.append([card, "not possible", rung["reason"], ""])
        else:
            rows.append([card, amount(plan["peak_bytes"]), ", ".join(plan["resident"]), ", ".join(plan["swapped"])])
    note = f"Computed from engines compiled for {report.settings['target']}, not measured on a card."
    return [Table(["card", "at the peak", "resident", "one after another"], rows), Note(note)]


def predict(report: Stored) -> list[Content]:
    """Predicted latency of every card, then the calculation of the quickest of each target, line by line."""
    found = report.results["predictions"]
    efficiency = report.results["efficiency"]
    rows: list[list[Cell]] = [
        [
            entry["target"], entry["card"].replace(" ", "\u00a0"),
            f"predicted\u00a0{seconds(entry['predicted_seconds'])}" if entry["reason"] is None else entry["reason"],
            seconds(entry["least_seconds"]) if entry["reason"] is None else "",
            entry["limits"]["source"],
        ]
        for entry in found
    ]  # fmt: skip
    told = (
        f"Predicted, not measured: time at the card's limits, divided by an efficiency of "
        f"{percent(efficiency['overall'])} overall. Efficiency from {efficiency['source']}. "
        f"{report.results['left out']} Of {', '.join(report.results['graphs'])}."
    )
    contents: list[Content] = [Note(told), Table(["target", "card", "latency", "at its limits", "source"], rows)]
    for entry in _quickest(found):
        contents += [Note(f"The calculation for {entry['target']}, {entry['card']}:"), _calculation(entry)]
    return contents


def _calculation(entry: dict[str, Any]) -> Table:
    rows: list[list[Cell]] = [
        [
            term["stage"], str(term["calls"]), seconds(term["compute_seconds"]), seconds(term["memory_seconds"]),
            percent(term["efficiency"]), seconds(term["predicted_seconds"]),
        ]
        for term in entry["terms"]
    ]  # fmt: skip
    rows.append(["sum", "", "", "", "", seconds(entry["predicted_seconds"])])
    head = ["stage", "calls", "compute, a call", "memory, a call", "efficiency", "calls × the longer ÷ efficiency"]
    return Table(head, rows, frozenset({len(rows) - 1}))


def _quickest(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    best: dict[str, dict[str, Any]] = {}
    for entry in found:
        if entry["reason"] is None:
            kept = best.setdefault(entry["target"], entry)
            if entry["predicted_seconds"] < kept["predicted_seconds"]:
                best[entry["target"]] = entry
    return list(best.values())


def _errors(report: Stored) -> dict[str, float]:
    errors: dict[str, float] = report.results["prediction_errors"]
    return errors
