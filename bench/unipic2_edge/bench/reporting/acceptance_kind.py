"""What a report of `bench accept` shows: goals, denoising steps, agreement, pictures, limits, memory, every step."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..page import Cell, Content, Note, Plot, Table, Tile
from . import plots
from .figures import amount, error, percent, seconds, times
from .stored import Stored

Section = tuple[str, Content]
Fields = Mapping[str, Any]
_MET = {True: "met", False: "missed", None: "not judged"}


def acceptance(report: Stored) -> list[Content]:
    """All sections in one part, their headings as notes."""
    contents: list[Content] = []
    for heading, content in acceptance_sections(report)[:-1]:  # a document tells the settings of every report
        contents += [Note(f"{heading}.")] if heading else []
        contents.append(content)
    return contents


def acceptance_lead(report: Stored) -> str:
    """What was tried on what, when, and how it ended."""
    steps = report.results["steps"]
    counts = ", ".join(f"{_count(steps, status)} {status}" for status in ("passed", "failed", "skipped"))
    layers = report.settings["layers"]
    scaled = "" if layers is None else f" The timed denoiser has {layers} layers only."
    device = "No GPU: the processor's rows only. " if report.settings["device"] == "cpu" else ""
    return (
        f"{device}{len(steps)} steps, each in a process of its own: {counts}.{scaled} A step that is skipped cannot be "
        f"done on this device or with what is installed; one that failed was expected to work. {report.when[:10]}."
    )


def acceptance_tiles(report: Stored) -> list[Tile]:
    """How the steps ended, the goals that are met, and the fastest engine of a step."""
    steps, goals = report.results["steps"], report.results["goals"]
    rest = f"{_count(steps, 'failed')} failed, {_count(steps, 'skipped')} skipped"
    tiles = [Tile(f"{_count(steps, 'passed')} of {len(steps)}", "steps passed", rest)]
    judged = [goal for goal in goals if goal["met"] is not None]
    if judged:
        tiles.append(Tile(f"{sum(goal['met'] for goal in judged)} of {len(judged)}", "goals met"))
    best = max(
        ((row["times_eager"]["median"], found) for found, row in _engines(report) if "times_eager" in row),
        key=lambda pair: pair[0],
        default=None,
    )
    if best is not None:
        what = f"{best[1]['way']}, {best[1]['workload']}"
        tiles.append(Tile(f"{best[0]:.2f}×", "fastest against PyTorch eager", what))
    return tiles


def acceptance_sections(report: Stored) -> list[Section]:
    """Headings and what stands under them; what was not done has no section."""
    sections = [
        *_named("What did not pass", _troubles(report)),
        *_named("Goals", _goals(report)),
        *_named(f"A denoising step of {report.settings['model']}", _denoiser(report)),
        *_named("Agreement with PyTorch", _agreement(report)),
        *_named("Pictures and answers, end to end", _pictures(report)),
        *_named("The device's limits", _limits(report)),
        *_named("Engines that were compiled", _builds(report)),
        *_named("Memory on the GPU", _memory(report)),
        *_named("The machine", _machine(report)),
        *_named("Every step", _steps(report)),
    ]
    told = ", ".join(f"{name} {_text(value)}" for name, value in report.settings.items() if value is not None)
    return [*sections, ("", Note(f"Settings: {told}."))]


def _named(heading: str, contents: Iterator[Content]) -> list[Section]:
    return [(heading if index == 0 else "", content) for index, content in enumerate(contents)]


def _count(steps: Sequence[Fields], status: str) -> int:
    return sum(step["status"] == status for step in steps)


def _passed(report: Stored, start: str) -> list[dict[str, Any]]:
    """Results of the steps under a name that came to results, whether they passed or not."""
    return [step["results"] for step in report.results["steps"] if step["name"].startswith(start) and step["results"]]


def _troubles(report: Stored) -> Iterator[Content]:
    """Failures one by one; skipped steps by their reasons, since many share one."""
    steps = report.results["steps"]
    rows: list[list[Cell]] = [["failed", step["title"], step["reason"]] for step in steps if step["status"] == "failed"]
    reasons: dict[str, list[str]] = {}
    for step in steps:
        if step["status"] == "skipped":
            reasons.setdefault(step["reason"], []).append(step["title"])
    for reason, titles in reasons.items():
        shown = titles[0] if len(titles) == 1 else f"{titles[0]}, and {len(titles) - 1} more"
        rows.append(["skipped", shown, reason])
    if rows:
        yield Table(["", "step", "why"], rows)


def _goals(report: Stored) -> Iterator[Content]:
    rows: list[list[Cell]] = []
    for goal in report.results["goals"]:
        shown = percent if "share" in goal["goal"] else lambda value: f"{value:.2f}×"
        found = "" if goal["found"] is None else shown(goal["found"])
        state = _MET[goal["met"]] + (f": {goal['why']}" if goal["why"] else "")
        rows.append([goal["way"], goal["workload"], goal["goal"], f"≥ {shown(goal['wanted'])}", found, state])
    if rows:
        yield Table(["engine", "workload", "goal", "wanted", "found", ""], rows)


def _engines(report: Stored) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every measurement with the row of its engine."""
    for found in _passed(report, "denoiser/step/"):
        for row in found["rows"]:
            if row["name"] == "engine":
                yield found, row


def _denoiser(report: Stored) -> Iterator[Content]:
    """A plot and a table for each workload: PyTorch alone, then every engine with what it was measured beside."""
    measured = _passed(report, "denoiser/step/")
    weights = _passed(report, "denoiser/weights")
    if weights and measured:
        made = weights[0]
        part = "" if made["layers"] == made["whole_layers"] else f" of {made['whole_layers']}"
        yield Note(
            f"Random weights, {made['parameters'] / 1e6:.4g} million parameters in {made['layers']}{part} layers; "
            f"PyTorch in {made['dtype']}. One step is one call with both branches of guidance. Every row of an engine "
            "was taken in turns with PyTorch in one process, and its ratios are of that run; quartiles in brackets. "
            "An engine's seconds hold its share of the modulation, which it computes once for all steps."
        )
    for load in dict.fromkeys(found["workload"] for found in measured):
        mine = [found for found in measured if found["workload"] == load]
        bars = {name: {"a step": 1e3 * row["seconds"]["median"]} for name, row in _rows_of(mine)}
        yield Plot(
            plots.stacked_bars(f"{_id(report.path.parent.name)}-{_id(load)}", bars, "ms"),
            f"{load}: milliseconds of one denoising step, medians; less is better.",
        )
        rows: list[list[Cell]] = [[name, *_cells(row)] for name, row in _rows_of(mine)]
        shares = ["MFU", "of data sheet", "velocity differs by", "memory"]
        yield Table([load, "a step", "faster than eager", "than torch.compile", *shares], rows)
        problems = {f"{name}: {why}" for found in mine for name, why in found["problems"].items()}
        yield from (Note(f"Did not run: {problem}") for problem in sorted(problems))


def _rows_of(measured: Sequence[Fields]) -> Iterator[tuple[str, dict[str, Any]]]:
    """PyTorch's rows of the run without an engine, else of the first one; then one of each engine."""
    alone = next((found for found in measured if found["way"] is None), None) or measured[0]
    yield from ((f"PyTorch {row['name']}", row) for row in alone["rows"] if row["name"] != "engine")
    for found in measured:
        yield from ((found["way"], row) for row in found["rows"] if row["name"] == "engine")


def _cells(row: Fields) -> list[Cell]:
    ratios = [times(row[name]) if name in row else "" for name in ("times_eager", "times_compile")]
    shares = [percent(row.get(name)) for name in ("mfu_measured", "mfu_sheet")]
    differs = _differs(row["velocity_error"]) if "velocity_error" in row else ""
    return [seconds(row["seconds"]["median"]), *ratios, *shares, differs, amount(row["memory_bytes"])]


def _differs(value: float | None) -> str:
    """A relative error; JSON has no word for what is not a number."""
    return "NaN" if value is None else error(value)


def _agreement(report: Stored) -> Iterator[Content]:
    rows: list[list[Cell]] = []
    for found in _passed(report, "correctness/agree/"):
        for row in found["rows"]:
            psnr = "identical" if row["psnr_db"] is None else f"{row['psnr_db']:.1f} dB"
            allowed = f"≤ {found['allowed_latents_error']:g}", f"≥ {found['allowed_psnr_db']:g} dB"
            same = "yes" if found["same_seed_same_bytes"] else "no"
            differs = _differs(row["latents_error"])
            rows.append([found["way"], row["task"], differs, allowed[0], psnr, allowed[1], same])
    if rows:
        head = ["through", "task", "latents differ by", "allowed", "least PSNR", "allowed", "same seed, same bytes"]
        yield Table(head, rows)
        yield Note("Against the plain PyTorch pipeline in float32 on the processor, from the same noise.")


def _pictures(report: Stored) -> Iterator[Content]:
    rows: list[list[Cell]] = []
    for found in [*_passed(report, "pictures/made/"), *_passed(report, "pictures/answers/")]:
        for row in found["rows"]:
            equal = row.get("equal_answers", row.get("equal_verdicts"))
            beside = [str(row["processor_right"]), str(equal)] if "processor_right" in row else ["", ""]
            took = row["seconds"]
            quartiles = f"{seconds(took['low'])}–{seconds(took['high'])}"
            right = f"{sum(row['right'])} of {len(row['right'])}"
            rows.append([found["way"], row["task"], seconds(took["median"]), quartiles, right, *beside])
    if rows:
        head = ["through", "task", "seconds each", "quartiles", "right", "right on the processor", "equal to its"]
        yield Table(head, rows)
        yield Note(
            "The small model, judged by a rule-based verifier. What is equal to the processor's: verdicts, prompt by "
            "prompt, and of answers the words themselves."
        )


def _limits(report: Stored) -> Iterator[Content]:
    for found in _passed(report, "limits/"):
        measured, sheet = found["measured"], found["sheet"] or {"rates": {}, "bandwidth": None}
        rows: list[list[Cell]] = [
            [name, f"{rate / 1e12:.3g} TFLOP/s", _of(rate, sheet["rates"].get(name), 1e12, "TFLOP/s")]
            for name, rate in measured["rates"].items()
        ]
        bandwidth = measured["bandwidth"]
        rows.append(["copies", f"{bandwidth / 1e9:.3g} GB/s", _of(bandwidth, sheet["bandwidth"], 1e9, "GB/s")])
        yield Table(["products in", "measured", "data sheet"], rows)
        yield Note(f"{measured['device']}: {measured['source']}.")


def _of(value: float, peak: float | None, unit: float, name: str) -> str:
    return "" if peak is None else f"{peak / unit:.3g} {name}, {percent(value / peak)} reached"


def _builds(report: Stored) -> Iterator[Content]:
    rows: list[list[Cell]] = []
    for step in report.results["steps"]:
        if "/build/" in step["name"]:
            name = step["name"].replace("/build/", ": ")
            rows += [
                [
                    name, row["graph"], f"{row['seconds']:.1f} s", amount(row["bytes"]), amount(row["weights_bytes"]),
                    amount(row["activation_bytes"]), amount(row["build_peak_bytes"]),
                ]
                for row in step["results"].get("engines", [])
            ]  # fmt: skip
    if rows:
        yield Table(["engine", "graph", "compiled in", "size", "weights", "activations", "peak while compiling"], rows)


def _memory(report: Stored) -> Iterator[Content]:
    rows: list[list[Cell]] = []
    for found in _passed(report, "memory/"):
        rows += [
            [
                f"{found['model']}: {found['way']}", row["graph"], amount(row["measured_bytes"]),
                amount(row["predicted_bytes"]), percent(row["measured_bytes"] / row["predicted_bytes"]),
            ]
            for row in found["rows"]
        ]  # fmt: skip
        if found["context_bytes"] is not None:
            assumed = found["assumed_context_bytes"]
            share = percent(found["context_bytes"] / assumed)
            rows.append(["", "CUDA and libraries", amount(found["context_bytes"]), amount(assumed), share])
    if rows:
        yield Table(["engine", "graph", "measured", "predicted", "of it"], rows)


def _machine(report: Stored) -> Iterator[Content]:
    for found in _passed(report, "environment/"):
        rows: list[list[Cell]] = [
            [name.replace("_", " "), amount(value) if name.endswith("_bytes") else _text(value)]
            for name, value in {**(found["gpu"] or {}), **found["versions"]}.items()
        ]
        machine = report.machine
        system = f"{machine.get('system')} {machine.get('architecture')}, Python {machine.get('python')}"
        own: list[list[Cell]] = [
            ["processor", f"{machine.get('processor')}, {machine.get('cores')} cores"],
            ["system", system],
            ["memory", f"{machine.get('memory_gib')} GiB"],
            ["load average", _text(machine.get("load_average", "unknown"))],
        ]
        yield Table(["", "here"], [*own, *rows])


def _steps(report: Stored) -> Iterator[Content]:
    rows: list[list[Cell]] = [
        [step["name"], step["status"], _took(step["seconds"]), step["reason"] or "; ".join(step["lines"][:3])]
        for step in report.results["steps"]
    ]
    yield Table(["step", "", "took", "found, or why not"], rows)


def _took(value: float) -> str:
    """Seconds, of steps that took any."""
    return seconds(value) if value else ""


def _id(text: str) -> str:
    """A text as a part of an element's id."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
