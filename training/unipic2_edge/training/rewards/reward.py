"""The interface of rewards: requests and the pictures that answer them in, ratings from 0 to 1 out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RecipeError, WorkError

Picture = NDArray[np.uint8]  # [H, W, 3]


@dataclass(frozen=True)
class Asked:
    """What a picture answers: a prompt, or an instruction with its source; `record` says more, where a reward wants it.

    The shapes world's records are its `Caption` and `Edit`; those of a file are the other fields of its line.
    """

    text: str
    source: Picture | None = None
    record: Any = None


@dataclass(frozen=True)
class Rating:
    """What a picture is worth, 0…1, and parts of it to be logged."""

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)


class Reward(ABC):
    """Rates pictures. Called from several threads at once; whatever it raises but a `RewardError` is tried again."""

    name: str

    def rates(self, asked: Asked) -> bool:
        """Whether it can say anything about an answer to this request; beside others, it is asked only then."""
        return True

    @abstractmethod
    def rate(self, asked: Sequence[Asked], pictures: Sequence[Picture]) -> list[Rating]:
        """One rating a picture; picture i answers request i."""


class RewardError(WorkError):
    """A reward that breaks its promise: not a number, out of 0…1, or not one rating a picture."""


def rated(reward: Reward, asked: Sequence[Asked], pictures: Sequence[Picture]) -> list[Rating]:
    """What a reward says, checked.

    Raises:
        RewardError: it says something that no reward may say.
        RecipeError: it does not rate such requests.
    """
    foreign = next((request for request in asked if not reward.rates(request)), None)
    if foreign is not None:
        task = "pictures made from words" if foreign.source is None else "edits"
        raise RecipeError(f"the reward {reward.name} does not rate {task}", "see reinforce.rewards and edit_share")
    ratings = reward.rate(asked, pictures)
    if len(ratings) != len(pictures):
        raise RewardError(f"reward {reward.name} rated {len(ratings)} of {len(pictures)} pictures", "correct it")
    for request, rating in zip(asked, ratings, strict=True):
        if not (math.isfinite(rating.value) and 0 <= rating.value <= 1):
            raise RewardError(
                f"reward {reward.name} gave {rating.value} for {request.text!r}", "it must be within 0…1: correct it"
            )
    return ratings


class WeightedReward(Reward):
    """The weighted mean of those that rate a request; each one's value, and its parts under its name, are parts.

    Args:
        rewards: with their weights, which are positive.
    """

    def __init__(self, rewards: Sequence[tuple[Reward, float]]) -> None:
        self.rewards = list(rewards)
        self.name = "+".join(reward.name for reward, _ in rewards)

    def rates(self, asked: Asked) -> bool:
        """What any of them rates."""
        return any(reward.rates(asked) for reward, _ in self.rewards)

    def rate(self, asked: Sequence[Asked], pictures: Sequence[Picture]) -> list[Rating]:
        """Ask one after another; each is checked by itself, so that an error names the one to blame."""
        values, totals = [0.0] * len(pictures), [0.0] * len(pictures)
        parts: list[dict[str, float]] = [{} for _ in pictures]
        for reward, weight in self.rewards:
            rows = [row for row, request in enumerate(asked) if reward.rates(request)]
            ratings = rated(reward, [asked[row] for row in rows], [pictures[row] for row in rows]) if rows else []
            for row, rating in zip(rows, ratings, strict=True):
                values[row] += rating.value * weight
                totals[row] += weight
                parts[row] |= {reward.name: rating.value}
                parts[row] |= {f"{reward.name}_{name}": value for name, value in rating.parts.items()}
        return [Rating(min(value / total, 1.0), part) for value, total, part in zip(values, totals, parts, strict=True)]
