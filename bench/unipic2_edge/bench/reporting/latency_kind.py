"""What a report of `bench latency` shows: end to end, stage by stage, and how it starts."""

from __future__ import annotations

from typing import Any

from ..page import Cell, Content, Note, Table
from .figures import Fields, percent, seconds
from .points import Point, common, measured, names, refused
from .stored import Stored

_TOTAL, _HOST = "total", "host"
#: As `latency.run` orders them: not every point has all.
_STAGES = ("tokenise", "condition", "VAE encode", "modulation", "denoise steps", "VAE decode")
_PERCENTILES = ("p50", "p90", "p99", "mean", "stdev")
_COLD = {
    "python": "the interpreter alone",
    "help": "--help shown",
    "import": "the runtime imported",
    "first_picture": "the first picture on disk",
}


def latency(report: Stored) -> list[Content]:
    """Tables from the whole to the parts."""
    points = measured(report)
    if not points:
        return [Note(line) for line in refused(report)]
    shared = common(points)
    turns = "took turns, run by run" if report.settings.get("interleaved") else "followed each other"
    told = (
        f"{f'All of {shared}. ' if shared else ''}From the request to the pictures in memory, in an open pipeline; "
        f"every run has another prompt and another picture. Settings {turns}. With fewer than 100 runs the 99th "
        "percentile lies between the two slowest. Processor time is that of all threads: it "
        "tells what the clock cannot where others use the machine as well."
    )
    contents: list[Content] = [Note(told), _whole(points), Note(_busy(report))]
    contents += [
        Note("Where the time goes: each stage's median, and the very first run."),
        _parts(points),
    ]
    contents += [Note("How it starts: fresh processes, then opening in a running one."), *_starts(report)]
    contents += [Note("Every stage with its tails:"), _tails(points)]
    return contents + [Note(f"Not run: {line}") for line in refused(report)]


def _busy(report: Stored) -> str:
    """How much else the machine had to do, so that nobody takes its mood for the model's."""
    load, cores = report.machine.get("load_average", []), report.machine.get("cores", "?")
    told = f"{load[0]:g} on {cores} cores" if load else "not readable"
    return (
        f"CPU threads: {report.settings.get('threads')}. The machine's load average at the end: {told}; where that is "
        "more than a process to a core, the clock counts waiting for the others as well."
    )


def _whole(points: list[Point]) -> Table:
    """End to end, the first step or token, each step, what the graphs do not explain."""
    rows: list[list[Cell]] = []
    for name, point in zip(names(points), points, strict=True):
        total = point["stages"][_TOTAL]
        outside = point["outside_graphs"]["p50"]
        rows.append([
            name, seconds(total["p50"]), seconds(total["p90"]), seconds(total["p99"]),
            f"{seconds(total['mean'])} ± {seconds(total['stdev'])}",
            seconds((point.get("to_first_step") or point["to_first_token"])["p50"]), _pace(point),
            f"{seconds(outside)} ({percent(outside / total['p50'])})",
            seconds(point["processor_seconds"]["p50"]), str(point["runs"]),
        ])  # fmt: skip
    head = [
        "setting", "p50", "p90", "p99", "mean ± deviation", "to the first step or token", "a step (p99), or tokens",
        "outside the graphs", "processor time", "runs",
    ]  # fmt: skip
    return Table(head, rows)


def _pace(point: Point) -> str:
    if "step" in point:
        return f"{seconds(point['step']['p50'])} ({seconds(point['step']['p99'])})"
    return f"{point['tokens_per_second']['p50']:.0f}\u00a0a second" if "tokens_per_second" in point else ""


def _parts(points: list[Point]) -> Table:
    """Stages as columns."""
    stages = stage_order(points)
    rows: list[list[Cell]] = [
        [
            name,
            *(seconds(point["stages"][stage]["p50"]) if stage in point["stages"] else "" for stage in stages),
            seconds(point["stages"][_TOTAL]["p50"]), seconds(point["first_run"]),
        ]
        for name, point in zip(names(points), points, strict=True)
    ]  # fmt: skip
    return Table(["setting", *stages, "together", "first run"], rows)


def stage_order(points: list[Point]) -> list[str]:
    """All stages but the whole, the host's last."""
    found = dict.fromkeys(stage for point in points for stage in point["stages"] if stage not in (_TOTAL, _HOST))
    known = [stage for stage in _STAGES if stage in found]
    return [*known, *(stage for stage in found if stage not in known), _HOST]


def _starts(report: Stored) -> list[Content]:
    cold, loads = report.results["cold"], report.results["loads"]
    contents: list[Content] = []
    if cold:
        rows: list[list[Cell]] = [
            [bundle, *(_cold(found[name]) for name in _COLD), str(found["python"]["count"])]
            for bundle, found in cold.items()
        ]
        contents.append(Table(["from process start to", *_COLD.values(), "runs"], rows))
    rows = [
        [_place(load), seconds(load["total"]), f"{slowest} {seconds(load['graphs'][slowest])}"]
        for load in loads
        if (slowest := max(load["graphs"], key=load["graphs"].__getitem__))
    ]
    return [
        *contents,
        Table(["opened in a running process", "all graphs, one by one", "longest (the first loads the library)"], rows),
    ]


def _cold(found: Fields) -> str:
    return f"{seconds(found['median'])} ({seconds(found['low'])}–{seconds(found['high'])})"


def _place(load: dict[str, Any]) -> str:
    return f"{load['bundle']}, {load['memory']}" if load["memory"] else str(load["bundle"])


def _tails(points: list[Point]) -> Table:
    rows: list[list[Cell]] = []
    whole = set()
    for name, point in zip(names(points), points, strict=True):
        whole.add(len(rows))
        for stage in (_TOTAL, *stage_order([point])):
            found = point["stages"][stage]
            rows.append(
                [name if stage == _TOTAL else f"\u2003{stage}", *(seconds(found[field]) for field in _PERCENTILES)]
            )
    return Table(["setting and stage", *_PERCENTILES], rows, frozenset(whole))
