"""Scores on the shapes world: right or wrong by task, the mean over tasks, and its confidence interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .captions import Caption
from .edits import Edit
from .render import Picture
from .verifier import Verdict, judge_edit, judge_generation

_Z95 = 1.959964


@dataclass(frozen=True)
class Score:
    """Right and total by task; `mean` weighs tasks equally, as GenEval does."""

    right: dict[str, int]
    total: dict[str, int]

    @property
    def mean(self) -> float:
        """The mean over the tasks of the share of right pictures."""
        shares = [self.right[task] / self.total[task] for task in self.total]
        return sum(shares) / len(shares) if shares else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share of right pictures (Wilson 1927), all tasks together."""
        count = sum(self.total.values())
        return wilson(sum(self.right.values()), count)


def wilson(right: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share; (0, 1) when nothing was counted."""
    if total == 0:
        return 0.0, 1.0
    share, z2 = right / total, _Z95**2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 * (share * (1 - share) / total + z2 / (4 * total**2)) ** 0.5 / (1 + z2 / total)
    return max(0.0, middle - half), min(1.0, middle + half)


def score(tasks: Sequence[str], verdicts: Sequence[Verdict]) -> Score:
    """Count verdicts by task."""
    right = dict.fromkeys(tasks, 0)
    total = dict.fromkeys(tasks, 0)
    for task, verdict in zip(tasks, verdicts, strict=True):
        right[task] += verdict.right
        total[task] += 1
    return Score(right, total)


def score_generation(captions: Sequence[Caption], pictures: Sequence[Picture]) -> tuple[Score, list[Verdict]]:
    """Judge one picture for each caption."""
    verdicts = [judge_generation(picture, caption) for picture, caption in zip(pictures, captions, strict=True)]
    return score([caption.task for caption in captions], verdicts), verdicts


def score_edits(
    edits: Sequence[Edit], sources: Sequence[Picture], pictures: Sequence[Picture]
) -> tuple[Score, list[Verdict]]:
    """Judge one edited picture for each edit of its source picture."""
    verdicts = [
        judge_edit(picture, source, edit) for picture, source, edit in zip(pictures, sources, edits, strict=True)
    ]
    return score([edit.kind for edit in edits], verdicts), verdicts
