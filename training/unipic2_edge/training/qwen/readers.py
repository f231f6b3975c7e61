"""A reader of what a picture's tokens show, each of the cells that it lies over: the vision tower's direct teacher.

Trained beside the language loss and then thrown away; without it the tower learns only through the answers. One map
reads all tokens, so that they say what they show in one language, wherever they stand: attention, which compares
tokens by one map as well, can look a shape up then. (A map for each place taught the tower what was where, and the
language model could not find it.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..shapes.scene import COLORS, GRID, SHAPES, Scene
from .sight import Grid

_CELLS = GRID * GRID
_SHAPES = len(SHAPES) + 1  # the first is an empty cell
_COLORS = len(COLORS)
_NOT_ASKED = -100


class CellReader(nn.Module):
    """A picture's tokens → shape (or none) and colour of the cells that each lies over.

    Args:
        hidden: width of a token.
        grids: how many tokens (down, across) a picture may have.
    """

    def __init__(self, hidden: int, grids: Iterable[Grid]) -> None:
        super().__init__()
        spans = {_span(grid) for grid in grids}
        self.linears = nn.ModuleDict(
            {_name(span): nn.Linear(hidden, math.prod(span) * (_SHAPES + _COLORS)) for span in spans}
        )

    def loss(self, tokens: Tensor, grid: Grid, cells: Tensor) -> Tensor:
        """Cross-entropy of shapes and of the objects' colours.

        Args:
            tokens: of one picture a row, [B, N, H].
            grid: how many of them stand down and across.
            cells: from `cell_targets`, [B, 9, 2].
        """
        logits = self.linears[_name(_span(grid))](tokens).float().view(-1, _SHAPES + _COLORS)
        shapes, colors = logits.split([_SHAPES, _COLORS], dim=-1)
        wanted = cells[:, cells_of_tokens(grid).to(cells.device)].view(-1, 2)
        shape_loss = functional.cross_entropy(shapes, wanted[:, 0])
        return shape_loss + functional.cross_entropy(colors, wanted[:, 1], ignore_index=_NOT_ASKED)


def cells_of_tokens(grid: Grid) -> Tensor:
    """The cells [N, c] that each of a picture's tokens lies over, those nearest to its middle."""
    down, across = (_starts(count) for count in grid)
    rows, columns = _span(grid)
    places = [
        [(top + row) * GRID + left + column for row in range(rows) for column in range(columns)]
        for top in down
        for left in across
    ]
    return torch.tensor(places)


def _starts(count: int) -> list[int]:
    """The first cell of each of `count` tokens along one side."""
    width = _width(count)
    return [min(max(round(GRID * (token + 0.5) / count - width / 2), 0), GRID - width) for token in range(count)]


def _width(count: int) -> int:
    """How many cells a token lies over along a side that has `count` of them."""
    return math.ceil(GRID / count)


def _span(grid: Grid) -> Grid:
    return _width(grid[0]), _width(grid[1])


def _name(span: Grid) -> str:
    return f"{span[0]}x{span[1]}"


def cell_targets(scenes: Sequence[Scene]) -> Tensor:
    """Shape and colour indices [B, 9, 2]: shape 0 where a cell is empty, and its colour is not asked."""
    names, colors = list(SHAPES), list(COLORS)
    targets = torch.zeros(len(scenes), _CELLS, 2, dtype=torch.int64)
    targets[..., 1] = _NOT_ASKED
    for row, scene in enumerate(scenes):
        for thing in scene.objects:
            place = thing.cell[0] * GRID + thing.cell[1]
            targets[row, place, 0] = names.index(thing.shape) + 1
            targets[row, place, 1] = colors.index(thing.color)
    return targets
