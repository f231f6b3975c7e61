"""A reader of what each cell of a picture shows, from the picture's tokens: the vision tower's direct teacher.

Trained beside the language loss and then thrown away; without it the tower learns only through the answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .shapes.scene import COLORS, GRID, SHAPES, Scene
from .sight import Grid

_CELLS = GRID * GRID
_SHAPES = len(SHAPES) + 1  # the first is an empty cell
_COLORS = len(COLORS)
_NOT_ASKED = -100


class CellReader(nn.Module):
    """A picture's tokens, all of them in order → shape (or none) and colour of each of the nine cells.

    One linear map for each grid, since a token does not know its own place: the tower's rope is relative.

    Args:
        hidden: width of a token.
        grids: how many tokens (down, across) a picture may have.
    """

    def __init__(self, hidden: int, grids: Iterable[Grid]) -> None:
        super().__init__()
        outputs = _CELLS * (_SHAPES + _COLORS)
        self.linears = nn.ModuleDict({_name(grid): nn.Linear(hidden * grid[0] * grid[1], outputs) for grid in grids})

    def loss(self, tokens: Tensor, grid: Grid, cells: Tensor) -> Tensor:
        """Cross-entropy of shapes and of the objects' colours.

        Args:
            tokens: of one picture a row, [B, N, H].
            grid: how many of them stand down and across.
            cells: from `cell_targets`, [B, 9, 2].
        """
        logits = self.linears[_name(grid)](tokens.flatten(1)).view(-1, _SHAPES + _COLORS).float()
        shapes, colors = logits.split([_SHAPES, _COLORS], dim=-1)
        wanted = cells.view(-1, 2)
        shape_loss = functional.cross_entropy(shapes, wanted[:, 0])
        return shape_loss + functional.cross_entropy(colors, wanted[:, 1], ignore_index=_NOT_ASKED)


def _name(grid: Grid) -> str:
    return f"{grid[0]}x{grid[1]}"


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
