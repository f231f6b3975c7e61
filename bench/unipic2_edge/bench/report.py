"""What the demo's page says: headline figures, pictures, scores with intervals, times, machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from unipic2_edge.training.shapes.scores import Score, wilson

from .page import Cell, Share, Shown, Table, Tile, page
from .quality import Edited, Generated, Settings
from .showcase import Showcase
from .statistics import Spread

_SHOWN_PROMPTS, _SHOWN_EDITS = 24, 12


@dataclass(frozen=True)
class DemoResults:
    """Everything the demo made and measured; `startup` as `measure_startup` gives it, `stages` in seconds."""

    model: str
    settings: Settings
    showcase: Showcase
    generated: Generated
    edited: Edited
    startup: dict[str, Spread]
    stages: dict[str, float]
    machine: Mapping[str, object]


def demo_page(results: DemoResults) -> str:
    """The demo's page as HTML."""
    settings, showcase = results.settings, results.showcase
    lead = (
        f"Pictures made by {results.model} from its exported bundle: {settings.width}×{settings.height} pixels, "
        f"{settings.steps} steps, guidance {settings.guidance:g}, on the CPU, without PyTorch. "
        "A rule-based verifier judges each of them."
    )
    return page(
        "UniPic2 on the shapes world",
        lead,
        _tiles(results),
        [
            ("From words", showcase.generated),
            ("The first of them, edited", showcase.edited),
            (f"Scores on {settings.prompts} prompts and {settings.prompts} edits never trained on", _scores(results)),
            ("Some of these prompts", _prompts(results.generated)[:_SHOWN_PROMPTS]),
            ("Some of these edits", _edits(results.edited)[:_SHOWN_EDITS]),
            ("Seconds", _seconds(results)),
            ("Machine", _machine(results.machine)),
        ],
    )


def _tiles(results: DemoResults) -> list[Tile]:
    tiles = []
    for name, score in (("generation", results.generated.score), ("editing", results.edited.score)):
        low, high = score.interval
        tiles.append(Tile(f"{score.mean:.2f}", f"{name}, share right", f"95 %: {low:.2f}–{high:.2f}"))
    seconds = results.showcase.seconds
    tiles += [
        Tile(f"{seconds['generate'].median:.2f} s", "a picture", "warm, median"),
        Tile(f"{seconds['edit'].median:.2f} s", "an edit", "warm, median"),
        Tile(f"{results.startup['first_picture'].median:.2f} s", "to the first picture", "from process start"),
    ]
    return tiles


def _prompts(generated: Generated) -> list[Shown]:
    made = zip(generated.captions, generated.pictures, generated.verdicts, strict=True)
    return [Shown(caption.text, picture, verdict) for caption, picture, verdict in made]


def _edits(edited: Edited) -> list[Shown]:
    made = zip(edited.edits, edited.pictures, edited.verdicts, edited.sources, strict=True)
    return [Shown(edit.text, picture, verdict, source) for edit, picture, verdict, source in made]


def _scores(results: DemoResults) -> Table:
    rows: list[list[Cell]] = []
    whole = set()
    for name, score in (("generation", results.generated.score), ("editing", results.edited.score)):
        whole.add(len(rows))
        rows += _score_rows(name, score)
    return Table(["task", "right", "of", "share (95 % interval)"], rows, frozenset(whole))


def _score_rows(name: str, score: Score) -> list[list[Cell]]:
    """The score as a row (mean over tasks, interval of all pictures together), then its tasks."""
    right, total = sum(score.right.values()), sum(score.total.values())
    rows: list[list[Cell]] = [[name, str(right), str(total), Share(score.mean, *score.interval)]]
    for task, count in score.total.items():
        share = Share(score.right[task] / count, *wilson(score.right[task], count))
        rows.append([task, str(score.right[task]), str(count), share])
    return rows


def _seconds(results: DemoResults) -> Table:
    measured = {
        "a picture, warm": results.showcase.seconds["generate"],
        "an edit, warm": results.showcase.seconds["edit"],
        "a new process, from its start to the picture on disk": results.startup["first_picture"],
    }
    rows: list[list[Cell]] = [
        [name, f"{found.median:.3f}", f"{found.least:.3f}–{found.most:.3f}", str(found.count)]
        for name, found in measured.items()
    ]
    for stage, value in results.stages.items():
        rows.append([f"this demo: {stage}", f"{value:.1f}", "", "1"])
    return Table(["what", "median", "least–most", "runs"], rows)


def _machine(machine: Mapping[str, object]) -> Table:
    return Table(["", ""], [[name.replace("_", " "), _text(value)] for name, value in machine.items()])


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {found}" for name, found in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
