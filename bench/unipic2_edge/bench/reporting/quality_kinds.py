"""What reports of `bench quality` and `bench recipes` show."""

from __future__ import annotations

from ..page import Cell, Content, Note, Table
from .figures import Fields, amount, error, percent, seconds, share
from .stored import Stored


def quality(report: Stored) -> list[Content]:
    """Scores by task, with their intervals."""
    rows: list[list[Cell]] = []
    whole = set()
    for name, score in report.results.items():
        if not isinstance(score, dict) or "tasks" not in score:
            continue
        whole.add(len(rows))
        rows.append([name, f"{score['right']} of {score['total']}", share(score)])
        rows += [[task, f"{made['right']} of {made['total']}", share(made)] for task, made in score["tasks"].items()]
    return [Table(["task", "right", "share (95 % interval)"], rows, frozenset(whole))]


def recipes(report: Stored) -> list[Content]:
    """What each recipe loses and saves."""
    head = ["recipe", "generation", "lost", "editing", "lost", "velocity", "denoiser", "a picture", "runs on"]
    rows: list[list[Cell]] = [
        [
            row["recipe"], *_lost(row["lost"].get("generate")), *_lost(row["lost"].get("edit")),
            "" if row["velocity"] is None else error(row["velocity"]), amount(row["denoiser_bytes"]),
            "" if row["generate_seconds"] is None else seconds(row["generate_seconds"]), ", ".join(row["targets"]),
        ]
        for row in report.results["rows"]
    ]  # fmt: skip
    told = (
        f"Points lost are against fp32 on the same {report.settings['prompts']} prompts of each task; "
        "velocity is the relative error of the denoiser's output."
    )
    return [Table(head, rows), Note(told)]


def _lost(task: Fields | None) -> tuple[str, str]:
    """The score and the points lost; nothing where no library here runs the recipe."""
    return ("", "") if task is None else (percent(task["candidate"] / 100), f"{task['points']:+.1f}")
