"""GenEval's rules on scenes of the shapes world, whose boxes and colours are known: what is nearly right is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unipic2_edge.training.errors import DataError, RecipeError
from unipic2_edge.training.rewards.detection import ColorNamer, Detector
from unipic2_edge.training.rewards.geneval import GenevalReward
from unipic2_edge.training.rewards.geneval_metadata import parse_metadata, read_metadata
from unipic2_edge.training.rewards.geneval_rules import Found, kept, overlap, relations
from unipic2_edge.training.rewards.reward import Asked, Picture, WeightedReward, rated
from unipic2_edge.training.rewards.settings import Geneval
from unipic2_edge.training.rewards.shapes import ShapesReward

BLANK = np.zeros((128, 128, 3), np.uint8)


class KnownScene(Detector):
    """Finds what it was told, whatever the picture."""

    names = frozenset({"circle", "square", "ring"})

    def __init__(self, *things: tuple[str, str, float, float, float]) -> None:
        """Class, colour, centre and score of each; radius 12."""
        self.found = [Found(name, score, (x - 12, y - 12, x + 12, y + 12)) for name, _, x, y, score in things]
        self.colors = {thing.box: color for thing, (_, color, *_) in zip(self.found, things, strict=True)}

    def find(self, pictures: Sequence[Picture], threshold: float) -> list[list[Found]]:
        return [[thing for thing in self.found if thing.score >= threshold] for _ in pictures]


class KnownColors(ColorNamer):
    def __init__(self, scene: KnownScene) -> None:
        self.scene = scene

    def name(self, picture: Picture, name: str, things: Sequence[Found]) -> list[str]:
        assert all(thing.name == name for thing in things)
        return [self.scene.colors[thing.box] for thing in things]


def _rate(line: dict[str, Any], *things: tuple[str, str, float, float, float], **settings: Any) -> tuple[bool, float]:
    scene = KnownScene(*things)
    reward = GenevalReward(Geneval(**settings), scene, KnownColors(scene))
    rating = rated(reward, [Asked("x", None, {"prompt": "x", **line})], [BLANK])[0]
    return bool(rating.parts["right"]), rating.value


def _clause(name: str, count: int = 1, **more: Any) -> dict[str, Any]:
    return {"class": name, "count": count, **more}


CIRCLE, SQUARE = ("circle", "red", 30.0, 64.0, 0.95), ("square", "blue", 98.0, 64.0, 0.95)
RED = {"tag": "colors", "include": [_clause("circle", color="red")]}
COUNTING = {"tag": "counting", "include": [_clause("circle", 2)], "exclude": [_clause("circle", 3)]}
TWO = [CIRCLE, ("circle", "red", 64.0, 64.0, 0.95)]
COLOR_ATTR = {"tag": "color_attr", "include": [_clause("circle", color="red"), _clause("square", color="blue")]}
POSITION = {"tag": "position", "include": [_clause("circle"), _clause("square", position=["right of", 0])]}


@pytest.mark.parametrize(
    ("line", "things", "right", "credit"),
    [
        ({"tag": "single_object", "include": [_clause("circle")]}, [CIRCLE], True, 1.0),
        ({"tag": "single_object", "include": [_clause("circle")]}, [SQUARE], False, 0.0),
        ({"tag": "single_object", "include": [_clause("circle")]}, [("circle", "red", 9, 9, 0.3)], False, 0.0),
        ({"tag": "two_object", "include": [_clause("circle"), _clause("square")]}, [CIRCLE, SQUARE], True, 1.0),
        ({"tag": "two_object", "include": [_clause("circle"), _clause("square")]}, [CIRCLE], False, 0.5),
        # A second circle is right for GenEval, and costs credit.
        ({"tag": "two_object", "include": [_clause("circle"), _clause("square")]}, [*TWO, SQUARE], True, 0.5),
        (COUNTING, TWO, True, 1.0),
        (COUNTING, [CIRCLE], False, 0.5),
        (COUNTING, [*TWO, ("circle", "red", 100.0, 64.0, 0.95)], False, 0.5),
        (COUNTING, [*TWO, ("circle", "red", 100.0, 64.0, 0.85)], True, 1.0),  # counting wants 0.9
        (COUNTING, [CIRCLE, ("circle", "red", 64.0, 64.0, 0.9)], False, 0.5),  # and more than that
        (RED, [CIRCLE], True, 1.0),
        ({"tag": "colors", "include": [_clause("circle", color="green")]}, [CIRCLE], False, 0.5),
        # Only the most certain circle is looked at.
        (RED, [("circle", "blue", 9, 9, 0.99), CIRCLE], False, 0.0),
        (COLOR_ATTR, [CIRCLE, SQUARE], True, 1.0),
        (COLOR_ATTR, [("circle", "blue", 30, 64, 0.9), ("square", "red", 98, 64, 0.9)], False, 0.5),  # swapped
        (POSITION, [CIRCLE, SQUARE], True, 1.0),
        (POSITION, [("circle", "red", 98, 64, 0.9), ("square", "blue", 30, 64, 0.9)], False, 2 / 3),  # the wrong side
        (POSITION, [("circle", "red", 64, 64, 0.9), ("square", "blue", 67, 64, 0.9)], False, 2 / 3),  # overlapping
        (POSITION, [("circle", "red", 60, 20, 0.9), ("square", "blue", 68, 100, 0.9)], False, 2 / 3),  # below
        (POSITION, [SQUARE], False, 1 / 3),  # nothing to be beside
    ],
)  # fmt: skip
def test_a_picture_is_judged_as_geneval_does(
    line: dict[str, Any], things: list[Any], right: bool, credit: float
) -> None:
    assert _rate(line, *things) == (right, pytest.approx(credit))


def test_a_target_of_the_wrong_colour_is_no_target() -> None:
    line = {
        "tag": "position",
        "include": [_clause("circle", color="green"), _clause("square", position=["right of", 0])],
    }
    assert _rate(line, CIRCLE, SQUARE)[0] is False


def test_an_exclusion_of_another_class_counts() -> None:
    line = {"tag": "single_object", "include": [_clause("circle")], "exclude": [_clause("ring", 1)]}
    assert _rate(line, CIRCLE) == (True, 1.0)
    assert _rate(line, CIRCLE, ("ring", "red", 90, 90, 0.9)) == (False, 0.5)


def test_doubled_detections_go_where_overlap_is_limited() -> None:
    twice = [CIRCLE, ("circle", "red", 31.0, 64.0, 0.93), ("circle", "red", 64.0, 64.0, 0.94)]
    assert _rate(COUNTING, *twice)[0] is False  # as the original has it by default
    assert _rate(COUNTING, *twice, max_overlap=0.5)[0] is True
    assert overlap(Found("a", 1, (0, 0, 9, 9)), Found("a", 1, (0, 0, 9, 9))) == 1.0
    assert overlap(Found("a", 1, (0, 0, 9, 9)), Found("a", 1, (5, 0, 14, 9))) == pytest.approx(1 / 3)
    assert overlap(Found("a", 1, (0, 0, 9, 9)), Found("a", 1, (20, 20, 29, 29))) == 0.0


def test_only_so_many_of_a_class_count() -> None:
    crowd = [Found("circle", 0.5 + i / 100, (i, 0, i + 1, 1)) for i in range(20)]
    assert [thing.score for thing in kept(crowd, "colors", Geneval(max_objects=3))["circle"]] == pytest.approx(
        [0.69, 0.68, 0.67]
    )


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (-40, 0, {"left of"}), (40, 0, {"right of"}), (0, -40, {"above"}), (0, 40, {"below"}),
        (-40, 40, {"left of", "below"}), (0, 0, set()), (3.9, 0, set()),  # 0.1 of both widths, 20 each, is 4
        (4.9, 0, set()),  # beyond it by 0.9, not half of 4.9
        (8.5, 0, {"right of"}),
    ],
)  # fmt: skip
def test_relations(x: float, y: float, said: set[str]) -> None:
    other = Found("b", 1, (90, 90, 110, 110))
    assert relations(Found("a", 1, (90 + x, 90 + y, 110 + x, 110 + y)), other, 0.1) == said


def test_what_the_detector_does_not_know_is_refused_not_scored() -> None:
    with pytest.raises(RecipeError, match="does not know zebra"):
        _rate({"tag": "single_object", "include": [_clause("zebra")]}, CIRCLE)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"tag": "size", "include": [_clause("circle")]}, "no task 'size'"),
        ({"tag": "colors", "include": []}, "nothing is included"),
        ({"tag": "colors", "include": [_clause("circle", color="teal")]}, "no color teal"),
        ({"tag": "colors", "include": [{"class": "circle"}]}, "count"),
        ({"tag": "colors", "include": [_clause("circle", 0)]}, ">= 1"),
        ({"tag": "position", "include": [_clause("circle", position=["near", 0])]}, "no relation near"),
        ({"tag": "position", "include": [_clause("circle", position=["above", 0])]}, "earlier clause"),
        ({"text": "a circle"}, "missing required field"),
        ("a circle", "Expected"),
    ],
)
def test_metadata_of_another_form_is_refused(line: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        parse_metadata({"prompt": "x", **line} if isinstance(line, dict) else line)


def test_metadata_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "metadata.jsonl"
    file.write_text('{"tag": "single_object", "include": [{"class": "circle", "count": 1}], "prompt": "a circle"}\n\n')
    ((metadata, line),) = read_metadata(file)
    assert (metadata.prompt, metadata.include[0].name, line["tag"]) == ("a circle", "circle", "single_object")
    file.write_text('{"tag": "single_object"}\n')
    with pytest.raises(DataError, match="line 1"):
        read_metadata(file)
    file.write_text("")
    with pytest.raises(DataError, match="holds no line"):
        read_metadata(file)
    with pytest.raises(DataError, match="cannot be read"):
        read_metadata(tmp_path / "none.jsonl")


def test_each_request_is_weighed_by_those_that_rate_it() -> None:
    scene = KnownScene(CIRCLE)
    geneval = GenevalReward(Geneval(), scene, KnownColors(scene))

    class Half(ShapesReward):
        name = "half"

        def rate(self, asked: Sequence[Asked], pictures: Sequence[Picture]) -> list[Any]:
            return [replace(rating, value=0.5) for rating in rated(geneval, [made] * len(asked), pictures)]

    made = Asked("x", None, {"tag": "single_object", "include": [_clause("circle")], "prompt": "x"})
    edit = Asked("y", BLANK, {"text": "y"})
    both = WeightedReward([(geneval, 3.0), (Half(), 1.0)])
    assert [rating.value for rating in rated(both, [made, edit], [BLANK, BLANK])] == [0.875, 0.5]
    assert "geneval" not in rated(both, [edit], [BLANK])[0].parts
    with pytest.raises(RecipeError, match="geneval does not rate edits"):
        rated(geneval, [edit], [BLANK])
