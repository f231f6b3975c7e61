"""The demo's page: pictures with their prompts and verdicts, scores, latencies and machine, in one HTML file."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from unipic2_edge.training.shapes.render import Picture
from unipic2_edge.training.shapes.verifier import Verdict

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #888; --right: #1a7f37; --wrong: #b35900; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 3rem auto; padding: 0 1.25rem; }
h1 { font-weight: 650; letter-spacing: -.01em; margin-bottom: .25rem; }
h2 { font-weight: 600; font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
.lead { color: var(--soft); margin-top: 0; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: 1.25rem; }
figure { margin: 0; }
.pair { display: flex; gap: 2px; }
img { width: 100%; image-rendering: pixelated; border-radius: 6px; border: 1px solid var(--line); min-width: 0; }
.wide { grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); }
figcaption { font-size: .9rem; margin-top: .35rem; }
.verdict { font-size: .8rem; color: var(--wrong); }
.verdict.right { color: var(--right); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
td, th { text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line); font-weight: 400; }
th { color: var(--soft); font-size: .85rem; }
"""


@dataclass(frozen=True)
class Shown:
    """One picture on the page: its words, what it was made of, and the verifier's verdict."""

    text: str
    picture: Picture
    verdict: Verdict
    source: Picture | None = None


Table = Sequence[Sequence[str]]  # the first row is the header


def page(title: str, lead: str, sections: Sequence[tuple[str, Sequence[Shown] | Table]]) -> str:
    """A self-contained HTML page of picture grids and tables."""
    parts = [f"<h1>{html.escape(title)}</h1>", f'<p class="lead">{html.escape(lead)}</p>']
    for heading, content in sections:
        parts.append(f"<h2>{html.escape(heading)}</h2>")
        shown = [item for item in content if isinstance(item, Shown)]
        parts.append(_grid(shown) if shown else _table([row for row in content if not isinstance(row, Shown)]))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def _grid(shown: Sequence[Shown]) -> str:
    wide = any(item.source is not None for item in shown)
    return f'<div class="grid{" wide" if wide else ""}">{"".join(_figure(item) for item in shown)}</div>'


def _figure(item: Shown) -> str:
    text = html.escape(item.text)
    image = f'<img alt="{text}" src="{_data_uri(item.picture)}">'
    if item.source is not None:
        image = f'<div class="pair"><img alt="before" src="{_data_uri(item.source)}">{image}</div>'
    verdict = "right" if item.verdict.right else f"wrong: {item.verdict.reason}"
    mark = f'<div class="verdict{" right" if item.verdict.right else ""}">{html.escape(verdict)}</div>'
    return f"<figure>{image}<figcaption>{text}{mark}</figcaption></figure>"


def _table(rows: Table) -> str:
    head, *body = rows
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in body)
    return f"<table><tr>{cells}</tr>{lines}</table>"


def _data_uri(picture: Picture) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(picture)).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
