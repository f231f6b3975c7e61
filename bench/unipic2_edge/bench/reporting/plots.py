"""Plots as SVG elements that take their colours from the page around them, so that they follow light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from unipic2_edge.runtime.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What matplotlib is told to draw with, and the page's variable that takes its place.
_INK, _SOFT, _LINE = "#010203", "#040506", "#070809"
_VARIABLES = {_INK: "var(--ink)", _SOFT: "var(--soft)", _LINE: "var(--line)"}
#: Readable on light and on dark paper, and told apart by people who see no difference between red and green.
PALETTE = ("#5b7be0", "#e0913b", "#3fa796", "#c0629e", "#8a7fd1", "#b7a83c", "#d1605e", "#7d8590", "#4fa3d1", "#9a6b4f")
_WIDTH = 9.0  # inches; the page scales it
_STYLE: dict[Any, Any] = {  # matplotlib's own type names every key of its newest release
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _SOFT,
    "axes.edgecolor": _LINE,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "grid.color": _LINE,
    "legend.frameon": False,
}


def draw(name: str, height: float, paint: Callable[[Axes], None]) -> str:
    """An SVG element of what `paint` puts on a pair of axes.

    Args:
        name: of the plot, unlike that of any other on the page (element ids are made of it).
        height: in inches, of a plot of 9 inches of width.
        paint: draws.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            "matplotlib, which draws the plots, is not installed", 'install it with: pip install "unipic2-edge[bench]"'
        ) from error
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        paint(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _embeddable(buffer.getvalue(), name)


def _embeddable(svg: str, name: str) -> str:
    """The SVG element alone: without prolog, metadata and name spaces, with the page's fonts, colours and own ids."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r'\s(xmlns(:\w+)?|width|height|version)="[^"]*"', "", svg, count=5)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px system-ui, sans-serif", svg)
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg.strip()


def stacked_bars(name: str, bars: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """A horizontal bar for each name, made of its parts in their order; parts of one name share a colour."""
    parts = list(dict.fromkeys(part for bar in bars.values() for part in bar))

    def paint(axes: Axes) -> None:
        places = list(range(len(bars)))[::-1]
        left = [0.0] * len(bars)
        for index, part in enumerate(parts):
            widths = [bar.get(part, 0.0) for bar in bars.values()]
            axes.barh(places, widths, left=left, height=0.6, label=part, color=PALETTE[index % len(PALETTE)])
            left = [start + width for start, width in zip(left, widths, strict=True)]
        for place, end in zip(places, left, strict=True):
            axes.annotate(
                f"{end:.0f} {unit}" if end >= 100 else f"{end:.3g} {unit}",
                (end, place),
                (4, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_yticks(places, list(bars))
        axes.set_xlabel(unit)
        axes.set_xlim(0, 1.12 * max(left, default=1.0))
        axes.figure.legend(loc="outside upper left", ncols=5, fontsize=9)

    return draw(name, 1.5 + 0.42 * len(bars), paint)


def lines(name: str, series: Mapping[str, Sequence[tuple[float, float]]], labels: tuple[str, str]) -> str:
    """A line with its points for each series, the x axis in powers of two."""

    def paint(axes: Axes) -> None:
        for index, (label, points) in enumerate(series.items()):
            x, y = zip(*sorted(points), strict=True)
            axes.plot(x, y, marker="o", label=label, color=PALETTE[index % len(PALETTE)])
        axes.set_xscale("log", base=2)
        ticks = sorted({x for points in series.values() for x, _ in points})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_ylim(bottom=0)
        _finish(axes, labels)

    return draw(name, 3.6, paint)


def scatter(name: str, points: Mapping[str, tuple[float, float]], labels: tuple[str, str]) -> str:
    """A point with its name for each entry; those that no other one beats in both ways (less x, more y) are joined."""
    best = pareto(points)

    def paint(axes: Axes) -> None:
        for label, (x, y) in points.items():
            axes.plot(x, y, "o", color=PALETTE[0 if label in best else 7], markersize=7)
            axes.annotate(label, (x, y), (7, _lift(label, points)), textcoords="offset points", fontsize=9)
        front = sorted(points[label] for label in best)
        axes.plot([x for x, _ in front], [y for _, y in front], "--", color=PALETTE[0], linewidth=1)
        axes.margins(0.18)
        _finish(axes, labels, legend=False)

    return draw(name, 3.8, paint)


def _lift(label: str, points: Mapping[str, tuple[float, float]]) -> float:
    """How far above its point a label stands: below it where that is the lower one of two that nearly coincide."""
    x, y = points[label]
    width, height = (max(values) - min(values) or 1.0 for values in zip(*points.values(), strict=True))
    near = [b for a, b in points.values() if abs(a - x) < width / 12 and 0 < b - y < height / 16]
    return -12.0 if near else 5.0


def pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The names of the points that no other one is at least as good as in both ways, and better in one."""
    return [
        name
        for name, (x, y) in points.items()
        if not any(a <= x and b >= y and (a < x or b > y) for a, b in points.values())
    ]


def roofline(name: str, roofs: Mapping[str, float], bandwidth: float, points: Mapping[str, tuple[float, float]]) -> str:
    """The roofline plot: operations a second over operations a byte, both logarithmic.

    Args:
        name: of the plot.
        roofs: operations a second by number format.
        bandwidth: bytes a second.
        points: by stage, (operations a byte, operations a second).
    """

    def paint(axes: Axes) -> None:
        ridges = [rate / bandwidth for rate in roofs.values()]
        least, most = (
            min([x for x, _ in points.values()] + ridges) / 3,
            max([x for x, _ in points.values()] + ridges) * 3,
        )
        for index, (label, rate) in enumerate(roofs.items()):
            ridge = rate / bandwidth
            axes.plot(
                [least, ridge, most], [bandwidth * least / 1e9, rate / 1e9, rate / 1e9], color=_SOFT, linewidth=1.3
            )
            axes.annotate(label, (most, rate / 1e9), (-4, 4 + 11 * index), textcoords="offset points", ha="right")
        for index, (label, (x, y)) in enumerate(points.items()):
            axes.plot(x, y / 1e9, "o", color=PALETTE[index % len(PALETTE)], label=label, markersize=7)
        axes.set_xscale("log")
        axes.set_yscale("log")
        lowest = min(y for _, y in points.values()) / 1e9
        axes.set_ylim(lowest / 2, 2 * max(roofs.values()) / 1e9)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
        _finish(axes, ("operations a byte (weights and border)", "GFLOP/s"))

    return draw(name, 4.2, paint)


def _finish(axes: Axes, labels: tuple[str, str], legend: bool = True) -> None:
    axes.grid(linewidth=0.6)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    if legend:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
