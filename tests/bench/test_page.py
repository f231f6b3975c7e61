"""The page: self-contained, everything escaped, what was wrong is said."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from unipic2_edge.bench.page import Note, Plot, Share, Shown, Table, Tile, page
from unipic2_edge.training.shapes.verifier import Verdict

RED = np.full((4, 6, 3), (255, 0, 0), np.uint8)
BLUE = np.full((4, 6, 3), (0, 0, 255), np.uint8)


class _Balance(HTMLParser):
    """Counts elements that were opened and not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _page() -> str:
    shown = [
        Shown("a <red> & square", RED, Verdict(True)),
        Shown("make it blue", BLUE, Verdict(False, "2 objects instead of 1"), source=RED),
    ]
    table = Table(["task", "share"], [["all", Share(0.5, 0.25, 0.75)], ["<b>", "text"]], frozenset({0}))
    return page("Title <1>", "a lead & more", [Tile("0.50", "share", "of <all>")], [("Pictures", shown), ("T", table)])


def test_every_text_is_escaped_and_every_element_closed() -> None:
    content = _page()
    for text in ("a &lt;red&gt; &amp; square", "Title &lt;1&gt;", "a lead &amp; more", "of &lt;all&gt;", "&lt;b&gt;"):
        assert text in content
    balance = _Balance()
    balance.feed(content)
    assert balance.open == []


def test_pictures_are_inside_the_page_pixel_for_pixel() -> None:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', _page())
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]
    np.testing.assert_array_equal(np.stack(pictures), np.stack([RED, RED, BLUE]))


def test_the_page_asks_the_network_for_nothing() -> None:
    content = _page()
    assert "http" not in content
    assert "<script" not in content
    assert "<link" not in content


def test_a_wrong_picture_says_why() -> None:
    content = _page()
    assert "✗ 2 objects instead of 1" in content
    assert content.count("✓ right") == 1


def test_a_share_stands_with_its_interval() -> None:
    assert '0.50 <span class="soft">(0.25–0.75)</span>' in _page()


def test_long_tables_are_folded_and_short_ones_are_not() -> None:
    tables = [Table(["n"], [[str(number)] for number in range(count)]) for count in (24, 25)]
    folded = [page("t", "l", [], [("T", table)]).count("<details>") for table in tables]
    assert folded == [0, 1]


def test_many_sections_are_listed_at_the_top_and_found_by_their_links() -> None:
    sections = [("One & the same", Note("words"))] * 9 + [("", Note("goes on"))]
    content = page("t", "l", [], sections)
    assert content.count("<h2") == 9
    links, places = re.findall(r'href="#([^"]+)"', content), re.findall(r'<h2 id="([^"]+)"', content)
    assert links == places and len(set(places)) == 9
    assert "<nav>" not in page("t", "l", [], sections[:8])


def test_a_plot_stands_with_its_caption() -> None:
    content = page("t", "l", [], [("P", Plot("<svg></svg>", "what <it> shows"))])
    assert "<svg></svg><figcaption>what &lt;it&gt; shows" in content
