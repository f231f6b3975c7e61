"""A self-contained HTML page: headline figures, pictures, tables, plots and notes; no scripts, nothing from outside."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from unipic2_edge.training.shapes.render import Picture
from unipic2_edge.training.shapes.verifier import Verdict

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fcfcfa; --card: #fff; --line: #e4e4df; --soft: #6d7178;
  --right: #1a7f37; --wrong: #a8500b; --bar: #4b6bdb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e4; --paper: #17181a; --card: #1f2023; --line: #34363a;
  --soft: #9a9ea6; --right: #5ac878; --wrong: #e59a52; --bar: #8ba3f5; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 64rem;
  margin: 3rem auto; padding: 0 1.25rem; }
h1 { font-weight: 650; font-size: 1.9rem; letter-spacing: -.015em; margin: 0 0 .25rem; }
h2 { font-weight: 600; font-size: 1.2rem; margin: 3rem 0 1rem; }
.soft { color: var(--soft); }
.lead { color: var(--soft); margin: 0 0 1.75rem; max-width: 44rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.2rem, 1fr)); gap: .75rem; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .8rem 1rem; }
.tile b { display: block; font-size: 1.7rem; font-weight: 600; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile span { display: block; font-size: .82rem; color: var(--soft); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(12.5rem, 1fr)); gap: 1.25rem; }
.dense { grid-template-columns: repeat(auto-fill, minmax(6.6rem, 1fr)); gap: 1rem .9rem; }
.pairs { grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); }
figure { margin: 0; }
.pair { display: flex; gap: .35rem; align-items: center; }
.pair i { font-style: normal; color: var(--soft); }
img { display: block; width: 100%; min-width: 0; image-rendering: pixelated; border-radius: 8px;
  outline: 1px solid var(--line); outline-offset: -1px; }
figcaption { font-size: .88rem; line-height: 1.35; margin-top: .45rem; }
.verdict { font-size: .8rem; color: var(--wrong); }
.verdict.right { color: var(--right); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
td, th { text-align: left; padding: .4rem .75rem .4rem 0; border-bottom: 1px solid var(--line); font-weight: 400;
  vertical-align: top; }
th { color: var(--soft); font-size: .82rem; }
tr.whole td { font-weight: 600; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; margin: 1.5rem 0 0; font-size: .88rem; }
a { color: var(--bar); text-decoration: none; }
a:hover { text-decoration: underline; }
summary { cursor: pointer; color: var(--soft); font-size: .88rem; }
.wide { overflow-x: auto; }
.note { font-size: .88rem; color: var(--soft); max-width: 50rem; margin: .6rem 0; }
.plot { margin: 1rem 0 1.5rem; }
.plot svg { display: block; width: 100%; height: auto; }
.plot figcaption { color: var(--soft); max-width: 50rem; }
.bar { display: inline-block; height: .55rem; border-radius: 3px; background: var(--bar); margin-right: .5rem; }
"""
_SHOWN_ROWS = 24  # a longer table is folded
_LISTED = 8  # more sections than this are listed at the top


@dataclass(frozen=True)
class Shown:
    """One picture on the page: its words, the verifier's verdict, and for an edit the picture it was made of."""

    text: str
    picture: Picture
    verdict: Verdict
    source: Picture | None = None


@dataclass(frozen=True)
class Tile:
    """One headline figure: its value, what it is, and a note."""

    value: str
    name: str
    note: str = ""


@dataclass(frozen=True)
class Share:
    """A share of right answers as a table shows it: bar, number, 95 % interval."""

    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Plot:
    """A drawing as an SVG element, whose colours are the page's variables, and what it shows."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Note:
    """A sentence beside the figures."""

    text: str


@dataclass(frozen=True)
class Titled:
    """A picture as it was stored (PNG, JPEG or WebP), and its words."""

    text: str
    data: bytes
    kind: str


Cell = str | Share


@dataclass(frozen=True)
class Table:
    """A head and rows; the rows in `whole` sum the ones after them up."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    whole: frozenset[int] = frozenset()


Content = Table | Plot | Note | Sequence[Titled] | Sequence[Shown]


def page(title: str, lead: str, tiles: Sequence[Tile], sections: Sequence[tuple[str, Content]]) -> str:
    """The page as HTML; every text is escaped and every picture is part of it.

    A section without a heading goes on with the one before it.
    """
    head = html.escape(title)
    parts = [f'<h1>{head}</h1><p class="lead">{html.escape(lead)}</p>', _tiles(tiles)]
    headings = [heading for heading, _ in sections if heading]
    parts.append(_listed(headings) if len(headings) > _LISTED else "")
    for index, (heading, content) in enumerate(sections):
        place = sum(1 for before, _ in sections[:index] if before)
        parts.append(f'<h2 id="section-{place}">{html.escape(heading)}</h2>' if heading else "")
        parts.append(_content(content))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{head}</title><style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _listed(headings: Sequence[str]) -> str:
    links = (f'<a href="#section-{place}">{html.escape(heading)}</a>' for place, heading in enumerate(headings))
    return f"<nav>{''.join(links)}</nav>"


def _content(content: Content) -> str:
    if isinstance(content, Table):
        table = f'<div class="wide">{_table(content)}</div>'
        many = len(content.rows) > _SHOWN_ROWS
        return f"<details><summary>{len(content.rows)} rows</summary>{table}</details>" if many else table
    if isinstance(content, Plot):
        return f'<figure class="plot">{content.svg}<figcaption>{html.escape(content.caption)}</figcaption></figure>'
    if isinstance(content, Note):
        return f'<p class="note">{html.escape(content.text)}</p>'
    return _grid(content)


def _tiles(tiles: Sequence[Tile]) -> str:
    cards = (
        f'<div class="tile"><span>{html.escape(tile.name)}</span><b>{html.escape(tile.value)}</b>'
        f"<span>{html.escape(tile.note)}</span></div>"
        for tile in tiles
    )
    return f'<div class="tiles">{"".join(cards)}</div>'


def _grid(shown: Sequence[Titled] | Sequence[Shown]) -> str:
    paired = any(isinstance(item, Shown) and item.source is not None for item in shown)
    kind = " pairs" if paired else " dense" if len(shown) > 12 else ""
    figures = (_figure(item) if isinstance(item, Shown) else _titled(item) for item in shown)
    return f'<div class="grid{kind}">{"".join(figures)}</div>'


def _figure(item: Shown) -> str:
    text = html.escape(item.text)
    image = f'<img alt="{text}" src="{_data_uri(item.picture)}">'
    if item.source is not None:
        image = f'<div class="pair"><img alt="before" src="{_data_uri(item.source)}"><i>→</i>{image}</div>'
    verdict = "✓ right" if item.verdict.right else f"✗ {item.verdict.reason}"
    mark = f'<div class="verdict{" right" if item.verdict.right else ""}">{html.escape(verdict)}</div>'
    return f"<figure>{image}<figcaption>{text}{mark}</figcaption></figure>"


def _titled(item: Titled) -> str:
    text, data = html.escape(item.text), base64.b64encode(item.data).decode()
    image = f'<img alt="{text}" src="data:image/{item.kind};base64,{data}">'
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.head)
    lines = "".join(_row(row, index in table.whole) for index, row in enumerate(table.rows))
    return f"<table><tr>{head}</tr>{lines}</table>"


def _row(row: Sequence[Cell], whole: bool) -> str:
    start = '<tr class="whole">' if whole else "<tr>"
    return start + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>"


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return html.escape(cell)
    bar = f'<span class="bar" style="width: {6 * cell.share:.2f}rem"></span>'
    return f'{bar}{cell.share:.2f} <span class="soft">({cell.low:.2f}–{cell.high:.2f})</span>'


def _data_uri(picture: Picture) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
