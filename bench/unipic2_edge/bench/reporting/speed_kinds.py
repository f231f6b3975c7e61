"""What reports of seconds show: `bench latency`, `throughput`, `words`, `startup`, `serve`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..page import Cell, Content, Note, Table
from .figures import middle, seconds, spread_cells, times
from .stored import Stored

_SAMPLE = ["median", "quartiles", "least–most", "runs"]


def words(report: Stored) -> list[Content]:
    """Looks and answers against PyTorch."""
    rows: list[list[Cell]] = []
    for name, found in report.results.items():
        if isinstance(found, Mapping) and "speedup" in found:
            here, there = (_in_unit(found[side]["median"], found["unit"]) for side in ("runtime", "pytorch"))
            rows.append([name, times(found["speedup"]), here, there])
    equal, answers = report.results["answers_token_for_token"], report.results["answers"]
    told = (
        f"{equal} of {answers} answers are equal token for token; "
        f"a second look at a picture is {times(report.results['second look, condition stage'])} as quick as the first."
    )
    return [Table(["what", "faster than PyTorch (quartiles)", "here", "PyTorch eager"], rows), Note(told)]


def startup(report: Stored) -> list[Content]:
    """Seconds of fresh processes."""
    rows: list[list[Cell]] = [[name.replace("_", " "), *spread_cells(found)] for name, found in report.results.items()]
    return [Table(["from process start to", *_SAMPLE], rows)]


def serve(report: Stored) -> list[Content]:
    """A server under load."""
    found = report.results
    crowd = found["crowd"]
    rows: list[list[Cell]] = [
        ["pictures a second, the pipeline alone", f"{found['bare']['median']:.2f}"],
        ["share of that, served one by one", times(found["single_ratio"])],
        ["share of that, batched", times(found["batched_ratio"])],
        ["pictures for the same processor time, one by one", times(found["single_work"])],
        ["pictures for the same processor time, batched", times(found["batched_work"])],
        [f"answers to {sum(crowd['statuses'].values())} requests at once", _counts(crowd["statuses"])],
        ["of them never answered", f"{crowd['hung']}"],
        ["seconds of those served", ", ".join(f"{name} {seconds(value)}" for name, value in crowd["seconds"].items())],
        ["same seeds, same bytes, alone and together", "yes" if found["same_bytes"] else "no"],
        ["p99 of a good client beside slow ones", f"{times(found['slow_ratio'])} of that without them"],
        ["memory's growth a request", f"{found['growth_per_request']:.0f} bytes"],
        *([name, _attack(attack)] for name, attack in found["attacks"].items()),
    ]
    return [Table(["what", "found"], rows)]


def _counts(statuses: Mapping[str, int]) -> str:
    return ", ".join(f"{count} × {status}" for status, count in statuses.items())


def _attack(found: Mapping[str, Any]) -> str:
    return f"{found['status']}, {found['grown_bytes'] / 1e6:.1f} MB more at the peak of {found['peak_bytes'] / 1e6:.0f}"


def other_figures(report: Stored) -> list[Content]:
    """Every figure of a report of any kind, by its place: what no other table shows is not lost."""
    rows: list[list[Cell]] = [[name, _cell(value)] for name, value in _leaves(report.results)]
    return [Table(["figure", "value"], rows)] if rows else []


def _in_unit(value: float, unit: str) -> str:
    return seconds(value) if unit == "s" else f"{value:.0f} a second"


def _leaves(fields: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, object]]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{place}{name}: ")
        elif not (isinstance(value, list) and any(isinstance(entry, (Mapping, list)) for entry in value)):
            yield f"{place}{name}", value


def _cell(value: object) -> str:
    if isinstance(value, Mapping):
        return f"{middle(value):.4g}"
    if isinstance(value, bool) or value is None:
        return {None: "", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
