"""A picture of learning curves: one plot a value, one line a history."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from unipic2_edge.runtime.errors import MissingDependencyError, RequestError

from ..reporting.plots import PALETTE
from .history import Axis, History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("png", "svg", "pdf")
_WIDTH, _HEIGHT, _DPI = 5.2, 3.4, 120  # inches of one plot, and dots an inch
_COLUMNS = 2
_MANY = 40  # points: more have no dots, and may be smoothed


def draw_curves(
    histories: Sequence[History], values: Sequence[str], axis: Axis, smooth: int = 1, kind: str = "png"
) -> bytes:
    """The bytes of a picture with a plot for each value; where one run went on from another stands a dotted line.

    Args:
        histories: a line each, those alone that have the value.
        values: names of what was logged.
        axis: what lies along the bottom.
        smooth: many points are shown as the mean of so many up to each, the single ones faint behind.
        kind: `FORMATS`.

    Raises:
        RequestError: nobody logged one of the values.
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            "matplotlib, which draws the curves, is not installed", 'install it with: pip install "unipic2-edge[bench]"'
        ) from error
    known = sorted({name for history in histories for name in history.names()})
    for value in values:
        if value not in known:
            raise RequestError(f"no run logged {value!r}", f"there are: {', '.join(known)}")
    columns = min(_COLUMNS, len(values))
    rows = -(-len(values) // columns)
    figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * rows), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place < len(values):
            _paint(axes, histories, values[place], axis, smooth)
        else:
            axes.remove()
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind)
    return buffer.getvalue()


def _paint(axes: Axes, histories: Sequence[History], value: str, axis: Axis, smooth: int) -> None:
    for index, history in enumerate(histories):
        points, colour = history.curve(value, axis), PALETTE[index % len(PALETTE)]
        if not points:
            continue
        x, y = zip(*points, strict=True)
        many = len(points) > _MANY
        if smooth > 1 and many:
            axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.3)
        shown = running_mean(y, smooth) if many else y
        axes.plot(x, shown, color=colour, label=history.name, marker=None if many else "o", markersize=3)
        for joint in history.joints:
            axes.axvline(joint.at(axis), color=colour, linestyle=":", linewidth=1)
    axes.set_title(value.replace("_", " "), fontsize=10)
    axes.set_xlabel(axis)
    axes.grid(linewidth=0.4, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    if len(histories) > 1:
        axes.legend(fontsize=8, frameon=False)


def running_mean(values: Sequence[float], count: int) -> list[float]:
    """At every place the mean of the last `count` values up to it, of fewer at the beginning."""
    return [sum(part) / len(part) for part in (values[max(0, i + 1 - count) : i + 1] for i in range(len(values)))]
