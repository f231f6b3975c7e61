"""Rewards by the names that recipes call them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from ..errors import RecipeError
from ..section import Section
from .reward import Reward, WeightedReward
from .settings import Geneval, Judge
from .shapes import ShapesReward


class Tables(Section, frozen=True):
    """The recipe's tables of rewards' settings."""

    geneval: Geneval = Geneval()
    judge: Judge = Judge()


_DEFAULT = Tables()


def _geneval(tables: Tables) -> Reward:
    from .geneval import GenevalReward  # transformers' models are opened only where they are asked for

    return GenevalReward.load(tables.geneval)


def _judge(tables: Tables) -> Reward:
    from .judge import JudgeReward

    return JudgeReward(tables.judge)


REWARDS: dict[str, Callable[[Tables], Reward]] = {
    "shapes": lambda tables: ShapesReward(),
    "geneval": _geneval,
    "judge": _judge,
}


def make_reward(weights: Mapping[str, float], tables: Tables = _DEFAULT) -> Reward:
    """The weighted mean of the named rewards; a name with a colon, `package.module:name`, is a user's own.

    Their models are opened and their servers asked, so that what is missing is said now.

    Raises:
        RecipeError: there is no such reward, a weight is not positive, or a reward has not what it needs.
    """
    if not weights:
        raise RecipeError("reinforce.rewards names no reward", f"give some of {', '.join(REWARDS)} with a weight")
    for name, weight in weights.items():
        if not weight > 0:
            raise RecipeError(f"the weight of reward {name} is {weight}", "give a positive one, or leave it out")
    made = [(_make(name, tables), weight) for name, weight in weights.items()]
    return made[0][0] if len(made) == 1 else WeightedReward(made)


def _make(name: str, tables: Tables) -> Reward:
    if name in REWARDS:
        return REWARDS[name](tables)
    module, colon, attribute = name.partition(":")
    if not colon:
        known = ", ".join(REWARDS)
        raise RecipeError(f"there is no reward {name!r}", f"use some of {known}, or your own as package.module:name")
    try:
        factory: Any = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"the reward {name} cannot be imported: {error}", "see reinforce.rewards") from error
    reward = factory()
    if not isinstance(reward, Reward):
        raise RecipeError(f"{name} makes no Reward", "subclass unipic2_edge.training.rewards.reward.Reward")
    return reward
