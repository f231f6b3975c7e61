"""A document as Markdown: its tables and notes. Plots and pictures are the page's."""

from __future__ import annotations

from collections.abc import Sequence

from ..page import Cell, Content, Note, Plot, Share, Table
from .document import Part


def markdown(title: str, lead: str, parts: Sequence[Part]) -> str:
    """The document; what Markdown cannot hold is named."""
    lines = [f"# {title}", "", lead]
    for part in parts:
        lines += ["", f"## {part.heading}"]
        for content in part.contents:
            lines += ["", *_lines(content)]
    return "\n".join(lines) + "\n"


def table_lines(table: Table) -> list[str]:
    """A table in Markdown; rows that sum others up stand in bold."""
    rows = [[_cell(cell) for cell in row] for row in table.rows]
    bold = [[f"**{cell}**" if cell else "" for cell in row] if i in table.whole else row for i, row in enumerate(rows)]
    return [f"| {' | '.join(row)} |" for row in (list(map(_escaped, table.head)), ["---"] * len(table.head), *bold)]


def _lines(content: Content) -> list[str]:
    if isinstance(content, Table):
        return table_lines(content)
    if isinstance(content, Note):
        return [content.text]
    if isinstance(content, Plot):
        return [f"(Plot in the HTML report: {content.caption})"]
    return [f"(Pictures in the HTML report: {'; '.join(item.text for item in content)})"]


def _cell(cell: Cell) -> str:
    if isinstance(cell, Share):
        return f"{cell.share:.2f} ({cell.low:.2f}–{cell.high:.2f})"
    return _escaped(cell)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
