"""How denoisers are looked at while they learn: strict scores of both tasks on prompts that training never samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .grids import save_grid
from .shapes.captions import evaluation_captions
from .shapes.edits import evaluation_edits
from .shapes.render import Picture, render
from .shapes.scene import Canvas
from .shapes.scores import score_edits, score_generation

Draw = Callable[[list[str], list[Picture] | None], list[Picture]]  # texts, and the pictures they edit → pictures

_SHOWN = 32  # of each task, on a grid


@dataclass(frozen=True)
class Examination:
    """`count` prompts of each task on one canvas, always the same."""

    canvas: Canvas
    count: int

    def take(self, draw: Draw, grid: Path | None = None) -> dict[str, float]:
        """Generate and edit; scores of both tasks. The grid: what was generated, then pairs of source and edited."""
        captions = evaluation_captions(self.count, self.canvas, seed=11)
        edits = evaluation_edits(self.count, self.canvas, seed=11)
        sources = [render(edit.source) for edit in edits]
        made = draw([caption.text for caption in captions], None)
        edited = draw([edit.text for edit in edits], sources)
        if grid is not None:
            pairs = [picture for pair in zip(sources[:_SHOWN], edited[:_SHOWN], strict=True) for picture in pair]
            save_grid(grid, made[:_SHOWN] + pairs)
        return {
            "generation": score_generation(captions, made)[0].mean,
            "editing": score_edits(edits, sources, edited)[0].mean,
        }
