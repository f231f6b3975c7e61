"""The document of one or many reports: overview plots over all of them, then a part for each, then the machines."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from ..page import Cell, Content, Note, Plot, Table, Titled
from . import (
    acceptance_kind,
    card_kinds,
    compare_kind,
    latency_kind,
    plots,
    quality_kinds,
    roofline_kind,
    speed_kinds,
    throughput_kind,
)
from .overview import latency_bars, quality_points, throughput_series
from .stored import Stored, damaged, picture_kind

_KINDS: dict[str, Callable[[Stored], list[Content]]] = {
    "accept": acceptance_kind.acceptance,
    "quality": quality_kinds.quality,
    "judge": quality_kinds.judge,
    "recipes": quality_kinds.recipes,
    "latency": latency_kind.latency,
    "throughput": throughput_kind.throughput,
    "compare": compare_kind.compare,
    "changes": compare_kind.changes,
    "words": speed_kinds.words,
    "startup": speed_kinds.startup,
    "serve": speed_kinds.serve,
    "roofline": roofline_kind.roofline,
    "predict": card_kinds.predict,
    "engines": card_kinds.engines,
    "memory": card_kinds.memory,
}
#: Plots over batches: the figure, the heading, the words at the axis.
_THROUGHPUT = {
    "throughput": ("pictures_per_second", "Throughput", "pictures a second"),
    "energy": ("pictures_a_joule", "Energy", "pictures a joule"),
}
_ORDER = {name: place for place, name in enumerate(_KINDS)}


@dataclass(frozen=True)
class Part:
    """A heading and what stands under it."""

    heading: str
    contents: list[Content]


def document(reports: Sequence[Stored]) -> list[Part]:
    """All parts.

    Raises:
        RequestError: a report lacks a field of its kind, or names a picture that is not beside it.
        MissingDependencyError: matplotlib is not installed.
    """
    ordered = sorted(reports, key=lambda report: (_ORDER.get(report.benchmark, len(_ORDER)), report.label))
    parts = [*_overview(ordered), *(_part(report) for report in ordered)]
    return [*parts, Part("Machines", [_machines(ordered)])]


def _part(report: Stored) -> Part:
    """One report: its tables, the pictures it names, its settings."""
    show = _KINDS.get(report.benchmark, speed_kinds.other_figures)
    pictures = [Titled(text, path.read_bytes(), picture_kind(path)) for path, text in report.picture_files()]
    try:
        contents = show(report)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise damaged(report, error) from error
    told = ", ".join(f"{name} {_text(value)}" for name, value in report.settings.items() if value not in (None, []))
    return Part(report.title, [*contents, *([pictures] if pictures else []), Note(f"{report.when}. Settings: {told}.")])


def _overview(reports: Sequence[Stored]) -> list[Part]:
    """Plots over reports of several kinds, for which there are figures enough."""
    found: list[Part] = []
    bars, points = latency_bars(reports), quality_points(reports)
    if bars:
        caption = "The median of every stage of a run; a bar's end is their sum. “Host” is what no stage explains."
        found.append(Part("Where the time goes", [Plot(plots.stacked_bars("stages", bars, "ms"), caption)]))
    for name, (figure, heading, told) in _THROUGHPUT.items():
        series = throughput_series(reports, figure)
        if series:
            plot = plots.lines(name, series, ("pictures in a batch", told))
            found.append(Part(heading, [Plot(plot, f"{told[0].upper()}{told[1:]} against the pictures of one batch.")]))
    if len(points) > 1:
        caption = (
            "Each point is a bundle at its settings: seconds for a picture, and the share of pictures that the "
            "verifier finds right. Up and to the left is better; on the dashed line stands what nothing else beats in "
            "both."
        )
        labels = ("seconds a picture", "right, % of pictures")
        found.append(Part("Quality against latency", [Plot(plots.scatter("pareto", points, labels), caption)]))
    return found


def _machines(reports: Sequence[Stored]) -> Table:
    """Every machine once, with the reports that were measured on it; its load differs from run to run."""
    keyed = sorted(((_machine_cells(report), report.label) for report in reports), key=lambda pair: pair[0])
    rows: list[list[Cell]] = [
        [*cells, ", ".join(label for _, label in group)] for cells, group in groupby(keyed, key=lambda pair: pair[0])
    ]
    return Table(["processor or device", "cores", "memory", "system", "libraries", "reports"], rows)


def _machine_cells(report: Stored) -> tuple[str, ...]:
    machine = report.machine
    libraries = machine.get("libraries", {})
    return (
        ", ".join([str(machine.get("processor", "unknown")), *map(str, machine.get("gpus", []))]),
        str(machine.get("cores", "")),
        f"{machine.get('memory_gib', '')} GiB",
        f"{machine.get('system', '')} {machine.get('architecture', '')}, Python {machine.get('python', '')}",
        ", ".join(f"{name} {version}" for name, version in libraries.items()),
    )


def _text(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    text = str(value)
    return f"{text[:12]}…" if re.fullmatch("[0-9a-f]{64}", text) else text
