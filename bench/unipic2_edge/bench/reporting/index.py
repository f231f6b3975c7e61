"""The index of a folder of results: one Markdown page by device, with each report's headline figures.

unipic2-edge bench report bench/results --index
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..page import Cell, Table
from .compare_kind import headline as compare_headline
from .figures import middle, percent, seconds, times
from .markdown import table_lines
from .points import Point, leading, measured
from .stored import Stored, damaged

NAME = "README.md"
_HEAD = """# Results by device

Written by `unipic2-edge bench report bench/results --index`; a test holds it current. Each folder is one machine, each
line one report, whose JSON holds the settings, the machine and the library versions. `unipic2-edge bench report
bench/results -o report.html` shows them all with plots.
"""


def index(folder: Path, reports: Sequence[Stored]) -> str:
    """The page, the same for the same reports.

    Raises:
        RequestError: a report lacks a field of its kind.
    """
    parts = [_HEAD]
    groups: dict[Path, list[Stored]] = {}
    for report in sorted(reports, key=lambda report: report.path.as_posix()):
        groups.setdefault(report.path.parent, []).append(report)
    for place, found in groups.items():
        name = place.relative_to(folder).as_posix()
        parts.append(f"## {folder.name if name == '.' else name}\n\n{_machine(found)}\n")
        rows: list[list[Cell]] = [_row(folder, report) for report in found]
        parts.append("\n".join(table_lines(Table(["report", "when", "found"], rows))) + "\n")
    return "\n".join(parts)


def _row(folder: Path, report: Stored) -> list[Cell]:
    link = f"[{report.title}]({report.path.relative_to(folder).as_posix()})"
    return [link, report.when[:10], headline(report)]


def headline(report: Stored) -> str:
    """The figures of a report that matter most, in a line; nothing for kinds without such.

    Raises:
        RequestError: a field of its kind is missing.
    """
    tell = _HEADLINES.get(report.benchmark)
    if tell is None:
        return ""
    try:
        return tell(report)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise damaged(report, error) from error


def _machine(found: Sequence[Stored]) -> str:
    machine = found[0].machine
    gpus = [str(gpu) for gpu in machine.get("gpus", [])]
    told = [str(machine.get("processor", "unknown")), f"{machine.get('cores')} cores", *gpus]
    return f"{', '.join(told)}, {machine.get('memory_gib')} GiB, {machine.get('system')} {machine.get('architecture')}"


def _quality(report: Stored) -> str:
    scores = {name: score for name, score in report.results.items() if isinstance(score, dict) and "mean" in score}
    return ", ".join(f"{name} {100 * score['mean']:.1f} %" for name, score in scores.items())


def _latency(report: Stored) -> str:
    found = leading(report.results["points"])
    return ", ".join(
        f"{point['bundle']}: {point['task']} {seconds(point['stages']['total']['p50'])} "
        f"(p99 {seconds(point['stages']['total']['p99'])})"
        for point in found
        if "refused" not in point
    )


def _throughput(report: Stored) -> str:
    best: dict[str, Point] = {}
    for point in measured(report):
        kept = best.setdefault(point["bundle"], point)
        if middle(point["pictures_per_second"]) > middle(kept["pictures_per_second"]):
            best[point["bundle"]] = point
    return ", ".join(
        f"{bundle}: {middle(point['pictures_per_second']):.2f} pictures a second at best, batch {point['batch']}, "
        f"{point['concurrency']} at once"
        for bundle, point in best.items()
    )


def _words(report: Stored) -> str:
    found = report.results
    quicker = ", ".join(
        f"{name} {times(made['speedup'])}"
        for name, made in found.items()
        if isinstance(made, dict) and "speedup" in made
    )
    return f"against PyTorch: {quicker}; {found['answers_token_for_token']} of {found['answers']} answers equal"


def _serve(report: Stored) -> str:
    found = report.results
    return (
        f"{found['bare']['median']:.2f} pictures a second bare; served one by one {times(found['single_ratio'])} "
        f"of that, batched {times(found['batched_ratio'])} (by processor time {times(found['batched_work'])})"
    )


def _startup(report: Stored) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {seconds(middle(found))}" for name, found in report.results.items())


def _recipes(report: Stored) -> str:
    judged = [(row["recipe"], row["lost"]["generate"]["points"]) for row in report.results["rows"] if row["lost"]]
    return f"points of generation lost: {', '.join(f'{name} {points:+.1f}' for name, points in judged)}"


def _engines(report: Stored) -> str:
    rows = report.results["rows"]
    made = sum(row["reason"] is None for row in rows)
    return f"{made} of {len(rows)} pairs of graph and target compiled"


def _memory(report: Stored) -> str:
    rungs = report.results["ladder"]
    fits = [rung["budget"] for rung in rungs if rung["plan"] is not None]
    return f"fits {min(fits) / 1e9:g} GB and more" if fits else "fits none of the cards"


def _roofline(report: Stored) -> str:
    stage = max(report.results["stages"], key=lambda stage: stage["calls"] * stage["seconds"])
    return f"{stage['name']}: MFU {percent(stage['mfu'])}, MBU {percent(stage['mbu'])}, bound by {stage['by']}"


def _predict(report: Stored) -> str:
    best: dict[str, float] = {}
    for entry in report.results["predictions"]:
        if entry["reason"] is None:
            best[entry["target"]] = min(best.get(entry["target"], float("inf")), entry["predicted_seconds"])
    return "predicted, best card: " + ", ".join(f"{target} {seconds(value)}" for target, value in best.items())


def _accept(report: Stored) -> str:
    steps, goals = report.results["steps"], report.results["goals"]
    ended = [step["status"] for step in steps]
    counts = [f"{ended.count(status)} {status}" for status in ("passed", "failed", "skipped")]
    judged = [goal["met"] for goal in goals if goal["met"] is not None]
    met = f"; {sum(judged)} of {len(judged)} goals met" if judged else ""
    return f"{len(steps)} steps: {', '.join(counts)}{met}"


_HEADLINES: dict[str, Callable[[Stored], str]] = {
    "accept": _accept,
    "quality": _quality,
    "latency": _latency,
    "throughput": _throughput,
    "compare": compare_headline,
    "words": _words,
    "startup": _startup,
    "serve": _serve,
    "recipes": _recipes,
    "engines": _engines,
    "memory": _memory,
    "roofline": _roofline,
    "predict": _predict,
}
