"""GenEval's rules: which detections count, what is beside what, whether a picture is right, and how nearly.

Rules and thresholds are those of the original tool (Ghosh et al. 2023, arXiv 2310.11513, `evaluate_images.py`): a
picture is right where every inclusion is met by its class's most certain objects and no exclusion is reached. Partial
credit is made after the GenEval reward of Flow-GRPO (Liu et al. 2025, arXiv 2505.05470): the mean over the demands.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .geneval_metadata import Clause, Metadata
from .settings import Geneval


@dataclass(frozen=True, eq=False)
class Found:
    """A detected object: class, score 0…1, box (left, top, right, bottom) in pixels, and its mask [H, W] if known."""

    name: str
    score: float
    box: tuple[float, float, float, float]
    mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Verdict:
    """GenEval's strict judgement, what is missing, partial credit 0…1; `parts` are its means by kind of demand."""

    right: bool
    missing: tuple[str, ...]
    credit: float
    parts: Mapping[str, float] = field(default_factory=dict)


#: Names the colours of objects of one class.
NameColors = Callable[[str, Sequence[Found]], list[str]]


def kept(found: Sequence[Found], tag: str, settings: Geneval) -> dict[str, list[Found]]:
    """The detections that count, by class, the most certain first."""
    threshold = settings.counting_threshold if tag == "counting" else settings.threshold
    classes: dict[str, list[Found]] = defaultdict(list)
    for thing in sorted(found, key=lambda thing: -thing.score):
        if thing.score > threshold:
            classes[thing.name].append(thing)
    return {name: _apart(things[: settings.max_objects], settings.max_overlap) for name, things in classes.items()}


def _apart(things: Sequence[Found], most: float) -> list[Found]:
    """Without those that overlap a more certain one too much (greedy non-maximum suppression); 1 keeps all."""
    left: list[Found] = []
    for thing in things:
        if most == 1 or all(overlap(thing, other) < most for other in left):
            left.append(thing)
    return left


def overlap(one: Found, other: Found) -> float:
    """Intersection over union of two boxes whose far edges are pixels of theirs, as the original has it."""
    first, second = np.asarray(one.box), np.asarray(other.box)
    shared = np.concatenate([np.maximum(first, second)[:2], np.minimum(first, second)[2:]])
    areas = [float(np.prod(np.maximum(box[2:] - box[:2] + 1, 0))) for box in (shared, first, second)]
    union = areas[1] + areas[2] - areas[0]
    return areas[0] / union if union else 0.0


def relations(one: Found, other: Found, threshold: float) -> set[str]:
    """Where `one` is as seen from `other`.

    The centres' offset loses `threshold` times both boxes' sizes on each axis; what is left must be more than half of
    the whole offset's length.
    """
    first, second = np.asarray(one.box).reshape(2, 2), np.asarray(other.box).reshape(2, 2)
    offset = first.mean(axis=0) - second.mean(axis=0)
    sizes = np.abs(first[1] - first[0]) + np.abs(second[1] - second[0])
    beyond = np.maximum(np.abs(offset) - threshold * sizes, 0) * np.sign(offset)
    if np.all(np.abs(beyond) < 1e-3):
        return set()
    across, down = beyond / np.linalg.norm(offset)
    said = {"left of": across < -0.5, "right of": across > 0.5, "above": down < -0.5, "below": down > 0.5}
    return {name for name, holds in said.items() if holds}


def judge(metadata: Metadata, objects: Mapping[str, Sequence[Found]], name_colors: NameColors, apart: float) -> Verdict:
    """Whether a picture is right, and how nearly.

    Args:
        metadata: what was asked.
        objects: what counts of what was found, by class, the most certain first.
        name_colors: of some objects of a class.
        apart: the position threshold.
    """
    missing: list[str] = []
    demands: list[tuple[str, float]] = []
    groups: list[Sequence[Found] | None] = []
    for clause in metadata.include:
        things = list(objects.get(clause.name, ()))
        met, problems = _clause(clause, things, groups, name_colors, apart)
        demands += met
        missing += problems
        groups.append(None if problems else things[: clause.count])
    included = {clause.name for clause in metadata.include}
    for clause in metadata.exclude:
        number = len(objects.get(clause.name, ()))
        if number >= clause.count:
            missing.append(f"{clause.name}: {number}, not under {clause.count}")
        if clause.name not in included:  # the others are counted above
            demands.append(("count", _nearness(max(number, clause.count - 1), clause.count - 1)))
    credits = [credit for _, credit in demands]
    kinds = {kind for kind, _ in demands}
    parts = {kind: float(np.mean([credit for name, credit in demands if name == kind])) for kind in sorted(kinds)}
    return Verdict(not missing, tuple(missing), float(np.mean(credits)), parts)


def _clause(
    clause: Clause,
    things: Sequence[Found],
    groups: Sequence[Sequence[Found] | None],
    name_colors: NameColors,
    apart: float,
) -> tuple[list[tuple[str, float]], list[str]]:
    """Each demand of an inclusion with its credit, and what is missing in the strict sense.

    A surplus that no exclusion forbids is right, as in GenEval, but costs credit, as in Flow-GRPO.
    """
    demands, missing = [("count", _nearness(len(things), clause.count))], []
    first = things[: clause.count]
    if len(first) < clause.count:
        missing.append(f"{clause.name}: {len(first)} of {clause.count}")
    if clause.color is not None:
        colors = name_colors(clause.name, first) if first else []
        right = colors.count(clause.color)
        demands.append(("color", right / clause.count))
        if right < clause.count and not missing:
            missing.append(f"{clause.name}: {', '.join(colors)}, not {clause.color}")
    if clause.position is not None:
        relation, target = clause.position
        others = groups[target]
        placed = not missing and others is not None
        placed = placed and all(relation in relations(one, other, apart) for one in first for other in others or ())
        demands.append(("position", float(placed)))
        if not placed and not missing:
            missing.append(f"{clause.name}: not {relation} what it should be")
    return demands, missing


def _nearness(number: int, wanted: int) -> float:
    """1 for the number wanted, less by each one's share for every one too many or too few, at least 0."""
    return max(0.0, 1 - abs(number - wanted) / max(wanted, 1))
