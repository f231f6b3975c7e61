"""What reports of `bench quality`, of a judge or not, and `bench recipes` show."""

from __future__ import annotations

from ..page import Cell, Content, Note, Share, Table
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


def judge(report: Stored) -> list[Content]:
    """A judge's scores, all edits together, by question and by task, with their intervals."""
    rows: list[list[Cell]] = []
    whole, unanswered = set(), 0
    for name, score in report.results.items():
        whole.add(len(rows))
        unanswered += score["unanswered"]
        parts = {**score["questions"], **score["tasks"]}
        for part, made in ((name, score), *parts.items()):
            rows.append([part.replace("_", " "), str(made["total"]), Share(made["mean"], *made["interval_95"])])
    told = (
        f"{report.settings['judge']} judged, with the questions {report.settings['wording']}; "
        f"{unanswered} edits without a proper answer are not counted."
    )
    return [Table(["what", "edits", "mean (95 % interval)"], rows, frozenset(whole)), Note(told)]


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
