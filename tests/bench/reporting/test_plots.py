"""Plots: what is best, and that two of them share no ids and name no colours of their own paper."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from unipic2_edge.bench.reporting import plots


def test_the_front_is_what_nothing_beats_in_both_ways() -> None:
    points = {
        "quick": (1.0, 10.0),
        "good": (3.0, 30.0),
        "between": (2.0, 20.0),
        "worse": (3.0, 20.0),
        "slow": (4.0, 30.0),
    }
    assert plots.pareto(points) == ["quick", "good", "between"]


def test_points_that_are_equal_are_both_best() -> None:
    assert plots.pareto({"a": (1.0, 1.0), "b": (1.0, 1.0)}) == ["a", "b"]


def test_a_plot_is_one_well_formed_element_with_the_pages_colours() -> None:
    svg = plots.stacked_bars("bars", {"one": {"text": 1.0, "denoise": 5.0}, "two": {"denoise": 3.0}}, "ms")
    assert ElementTree.fromstring(svg).tag == "svg"
    assert "var(--soft)" in svg and not re.search("#0[1-9]0[1-9]0[1-9]", svg)
    for text in ("denoise", "6 ms", "3 ms", "one"):
        assert f">{text}</text>" in svg


def test_two_plots_of_the_same_figures_share_no_ids() -> None:
    series = {"a": [(1.0, 2.0), (4.0, 3.0)]}
    found = [set(re.findall(r'id="([^"]+)"', plots.lines(name, series, ("x", "y")))) for name in ("one", "two")]
    assert found[0] and not found[0] & found[1]


def test_the_same_figures_make_the_same_plot() -> None:
    made = [plots.scatter("p", {"a": (1.0, 2.0), "b": (1.0, 2.1)}, ("x", "y")) for _ in range(2)]
    assert made[0] == made[1]


def test_a_roofline_shows_its_roofs_and_stages() -> None:
    svg = plots.roofline("roof", {"float32": 1e11, "int8": 4e11}, 2e10, {"denoiser": (30.0, 5e10), "vae": (1.0, 1e10)})
    for text in ("float32", "int8", "denoiser", "vae", "GFLOP/s"):
        assert f">{text}</text>" in svg
