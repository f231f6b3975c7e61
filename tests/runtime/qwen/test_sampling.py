"""Distributions equal transformers' logits processors; the same seed gives the same tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList
from transformers.generation import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from unipic2_edge.runtime.errors import RequestError, WorkError
from unipic2_edge.runtime.qwen.sampling import Sampler, SamplingSettings, distribution, penalised

VOCABULARY = 300


def _theirs(logits: np.ndarray, previous: np.ndarray, settings: SamplingSettings) -> np.ndarray:
    steps: list[Any] = []
    if settings.repetition_penalty != 1:
        steps.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    steps.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k:
        steps.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1:
        steps.append(TopPLogitsWarper(settings.top_p))
    scores = LogitsProcessorList(steps)(torch.from_numpy(previous)[None], torch.from_numpy(logits)[None])
    return scores.double().softmax(-1)[0].numpy()


@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3, 1e-6])
@pytest.mark.parametrize("top_k", [0, 1, 20, 1000])
@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("penalty", [1.0, 1.3, 0.7])
def test_the_distribution_equals_transformers(top_p: float, top_k: int, temperature: float, penalty: float) -> None:
    settings = SamplingSettings(temperature=temperature, top_p=top_p, top_k=top_k, repetition_penalty=penalty)
    rng = np.random.default_rng(top_k)
    for _ in range(5):
        logits = rng.standard_normal(VOCABULARY).astype(np.float32) * 4
        previous = rng.integers(0, VOCABULARY, 60)
        ours, theirs = distribution(logits, previous, settings), _theirs(logits, previous, settings)
        assert ((ours > 0) == (theirs > 0)).all()
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_greedy_takes_the_largest_after_the_penalty() -> None:
    logits, previous = np.array([1.0, 3.0, 2.9, -1.0], np.float32), np.array([1, 1, -1])
    assert Sampler(SamplingSettings())(logits, previous) == 1
    assert Sampler(SamplingSettings(repetition_penalty=2.0))(logits, previous) == 2
    assert penalised(logits, previous, 2.0).tolist() == [1.0, 1.5, np.float32(2.9), -1.0]


@pytest.mark.parametrize("top_p", [1e-300, 0.5, 1 - 1e-12])
def test_alike_tokens_and_the_smallest_nucleus_leave_one_at_least(top_p: float) -> None:
    settings = SamplingSettings(temperature=1.0, top_p=top_p)
    shares = distribution(np.zeros(7, np.float32), np.zeros(0, np.int64), settings)
    assert 1 <= (shares > 0).sum() <= np.ceil(top_p * 7)
    assert shares.sum() == pytest.approx(1)


def test_the_same_seed_draws_the_same_tokens_and_another_does_not() -> None:
    logits = np.random.default_rng(0).standard_normal((50, VOCABULARY)).astype(np.float32)
    previous = np.zeros(0, np.int64)

    def draw(seed: int) -> list[int]:
        sampler = Sampler(SamplingSettings(temperature=1.0, seed=seed))
        return [sampler(row, previous) for row in logits]

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)


def test_draws_follow_the_distribution() -> None:
    settings = SamplingSettings(temperature=1.0, top_k=4, seed=1)
    logits = np.random.default_rng(2).standard_normal(30).astype(np.float32) * 2
    sampler, previous = Sampler(settings), np.zeros(0, np.int64)
    drawn = np.bincount([sampler(logits, previous) for _ in range(8_000)], minlength=30) / 8_000
    wanted = distribution(logits, previous, settings)
    assert (drawn[wanted == 0] == 0).all()
    np.testing.assert_allclose(drawn, wanted, atol=0.02)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.1}),
        *({"top_k": -1}, {"repetition_penalty": 0.0}, {"seed": -1}),
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        SamplingSettings(**wrong)


def test_nan_is_an_error_and_not_a_word() -> None:
    with pytest.raises(WorkError, match="NaN"):
        Sampler(SamplingSettings())(np.array([0.0, np.nan], np.float32), np.zeros(0, np.int64))
