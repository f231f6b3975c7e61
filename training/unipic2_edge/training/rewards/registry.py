"""Rewards by the names that recipes call them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from ..errors import RecipeError
from .reward import Reward, WeightedReward
from .shapes import ShapesReward

REWARDS: dict[str, Callable[[], Reward]] = {"shapes": ShapesReward}


def make_reward(weights: Mapping[str, float]) -> Reward:
    """The weighted mean of the named rewards; a name with a colon, `package.module:name`, is a user's own.

    Raises:
        RecipeError: there is no such reward, or a weight is not positive.
    """
    if not weights:
        raise RecipeError("reinforce.rewards names no reward", f"give some of {', '.join(REWARDS)} with a weight")
    for name, weight in weights.items():
        if not weight > 0:
            raise RecipeError(f"the weight of reward {name} is {weight}", "give a positive one, or leave it out")
    made = [(_make(name), weight) for name, weight in weights.items()]
    return made[0][0] if len(made) == 1 else WeightedReward(made)


def _make(name: str) -> Reward:
    factory: Any = REWARDS.get(name)
    if factory is None:
        module, colon, attribute = name.partition(":")
        try:
            factory = getattr(import_module(module), attribute) if colon else None
        except (ImportError, AttributeError) as error:
            raise RecipeError(f"the reward {name} cannot be imported: {error}", "see reinforce.rewards") from error
    if factory is None:
        known = ", ".join(REWARDS)
        raise RecipeError(f"there is no reward {name!r}", f"use some of {known}, or your own as package.module:name")
    reward = factory()
    if not isinstance(reward, Reward):
        raise RecipeError(f"{name} makes no Reward", "subclass unipic2_edge.training.rewards.reward.Reward")
    return reward
