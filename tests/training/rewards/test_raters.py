"""Rewards: what they may say, their weighted mean, and what happens when they are slow, fail or are dead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from unipic2_edge.training.errors import RecipeError, SuspendedWorkError
from unipic2_edge.training.rewards import raters as raters_module
from unipic2_edge.training.rewards.raters import Raters
from unipic2_edge.training.rewards.registry import make_reward
from unipic2_edge.training.rewards.reward import Asked, Picture, Rating, Reward, RewardError, WeightedReward, rated


class Scripted(Reward):
    """Says what it is told to, call by call; the last answer is for all further calls."""

    def __init__(self, *answers: Callable[[], float], name: str = "scripted") -> None:
        self.answers, self.name, self.calls = list(answers), name, 0

    def rate(self, asked: Sequence[Asked], pictures: Sequence[Picture]) -> list[Rating]:
        answer = self.answers[min(self.calls, len(self.answers) - 1)]
        self.calls += 1
        return [Rating(answer(), {"part": 0.5}) for _ in pictures]


def _fails() -> float:
    raise ConnectionError("no answer from the server")


def _batch(count: int = 2) -> tuple[list[Asked], list[Picture]]:
    return [Asked(f"text {i}") for i in range(count)], [np.zeros((8, 8, 3), np.uint8)] * count


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raters_module, "_FIRST_PAUSE", 0.01)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.5])
def test_a_value_that_is_no_reward_is_an_error_that_names_it(value: float) -> None:
    reward = Scripted(lambda: value, name="odd")
    with pytest.raises(RewardError, match="reward odd gave"):
        rated(reward, *_batch())
    weighted = WeightedReward([(Scripted(lambda: 0.5), 1.0), (reward, 1.0)])
    with pytest.raises(RewardError, match="reward odd gave"):
        Raters(weighted).submit(*_batch()).result()
    assert reward.calls == 2  # it is not asked again: it would say the same


def test_the_weighted_mean_keeps_the_parts_apart() -> None:
    weighted = WeightedReward([(Scripted(lambda: 1.0, name="a"), 3.0), (Scripted(lambda: 0.2, name="b"), 1.0)])
    rating = rated(weighted, *_batch())[0]
    assert rating.value == pytest.approx(0.8)
    assert rating.parts == {"a": 1.0, "a_part": 0.5, "b": 0.2, "b_part": 0.5}


def test_a_failed_attempt_is_made_again() -> None:
    reward = Scripted(_fails, _fails, lambda: 0.25)
    assert [rating.value for rating in Raters(reward, retries=2).submit(*_batch()).result()] == [0.25, 0.25]
    assert reward.calls == 3


def test_a_dead_reward_suspends_the_work() -> None:
    reward = Scripted(_fails)
    with pytest.raises(SuspendedWorkError, match=r"reward scripted failed: ConnectionError: no answer.* 2 times"):
        Raters(reward, retries=1).submit(*_batch()).result()
    assert reward.calls == 2


def test_a_reward_that_hangs_is_given_up_and_holds_nothing_up() -> None:
    release = threading.Event()

    def hang() -> float:
        release.wait(30)
        return 0.5

    started = time.monotonic()
    with pytest.raises(SuspendedWorkError, match="did not answer within"):
        Raters(Scripted(hang), workers=2, timeout=0.1, retries=1).submit(*_batch()).result()
    assert time.monotonic() - started < 10
    release.set()


def test_batches_are_rated_while_others_are_submitted() -> None:
    release = threading.Event()

    def wait() -> float:
        release.wait(30)
        return 1.0

    pending = Raters(Scripted(wait), workers=2).submit(*_batch())
    release.set()  # only after `submit` has returned
    assert pending.result()[0].value == 1.0


def test_rewards_by_name() -> None:
    assert make_reward({"shapes": 1.0}).name == "shapes"
    own = make_reward({"shapes": 1.0, "unipic2_edge.training.rewards.shapes:ShapesReward": 0.5})
    assert own.name == "shapes+shapes"
    for weights, problem in (
        ({}, "no reward"),
        ({"shape": 1.0}, "there is no reward 'shape'"),
        ({"shapes": 0.0}, "weight of reward shapes is 0"),
        ({"no.such.module:Reward": 1.0}, "cannot be imported"),
        ({"pathlib:Path": 1.0}, "makes no Reward"),
    ):
        with pytest.raises(RecipeError, match=problem):
            make_reward(weights)
