"""Text conditioning: the layout of SD3's context, one batch for what is new, nothing encoded twice."""

from __future__ import annotations

import numpy as np
import pytest

from unipic2_edge.runtime import conditioning as module
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.conditioning import TEXT_GRAPHS, Conditioning, TextConditioner
from unipic2_edge.runtime.errors import BundleError, RequestError
from unipic2_edge.runtime.opening import open_session
from unipic2_edge.runtime.session import Session
from unipic2_edge.runtime.tokens import open_tokenizers

JOINT = 12


class Counting:
    """A pool that notes how many rows each call has."""

    def __init__(self, bundle: Bundle) -> None:
        self.calls: list[tuple[str, int]] = []
        self._sessions = {name: open_session(bundle, name) for name in TEXT_GRAPHS}

    def __getitem__(self, name: str) -> Session:
        outer, session = self, self._sessions[name]

        class Noted:
            graph = session.graph

            def run(self, inputs: dict) -> dict:
                outer.calls.append((name, len(inputs["input_ids"])))
                return session.run(inputs)

        return Noted()


def _told(conditioner: TextConditioner, prompts: list[str]) -> Conditioning:
    return conditioner(conditioner.turns(prompts))


@pytest.fixture
def sessions(bundle: Bundle) -> Counting:
    return Counting(bundle)


@pytest.fixture
def conditioner(bundle: Bundle, sessions: Counting) -> TextConditioner:
    return TextConditioner(open_tokenizers(bundle), sessions, JOINT)


def test_the_context_is_sd3s(conditioner: TextConditioner, weights: dict) -> None:
    context, pooled = _told(conditioner, ["a red", ""])
    assert (context.shape, pooled.shape) == ((2, 6 + 5, JOINT), (2, 7))
    clip = np.array([[1, 4, 5, 2, 0, 0], [1, 2, 0, 0, 0, 0]])
    t5 = np.array([[4, 5, 2, 0, 0], [2, 0, 0, 0, 0]])
    first, second = (weights[name]["table"][clip] for name in TEXT_GRAPHS[:2])
    np.testing.assert_array_equal(context[:, :6, :4], first)
    np.testing.assert_array_equal(context[:, :6, 4:7], second)
    np.testing.assert_array_equal(context[:, :6, 7:], 0)
    np.testing.assert_array_equal(context[:, 6:], weights["text_encoder_3"]["table"][t5])
    np.testing.assert_allclose(pooled, np.concatenate([first.mean(1), second.mean(1)], axis=1), atol=1e-6)


def test_new_prompts_are_one_batch_and_old_ones_none(conditioner: TextConditioner, sessions: Counting) -> None:
    first = _told(conditioner, ["", "a red", ""])
    assert sessions.calls == [(name, 2) for name in TEXT_GRAPHS]
    np.testing.assert_array_equal(first.context[0], first.context[2])
    sessions.calls.clear()
    again = _told(conditioner, ["a red", ""])
    assert sessions.calls == []
    np.testing.assert_array_equal(again.context, first.context[[1, 0]])
    np.testing.assert_array_equal(again.pooled, first.pooled[[1, 0]])
    _told(conditioner, ["", "blue"])
    assert sessions.calls == [(name, 1) for name in TEXT_GRAPHS]


def test_the_least_recent_prompts_are_forgotten(
    conditioner: TextConditioner, sessions: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CACHED_PROMPTS", 2)
    for prompt in ("a", "red", "a", "blue"):  # forgets "red", not "a"
        _told(conditioner, [prompt])
    sessions.calls.clear()
    _told(conditioner, ["a", "blue"])
    assert sessions.calls == []
    _told(conditioner, ["red"])
    assert len(sessions.calls) == 3


def test_more_prompts_than_are_kept_still_work(conditioner: TextConditioner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CACHED_PROMPTS", 1)
    context, _ = _told(conditioner, ["a", "red", "blue"])
    np.testing.assert_array_equal(context[1], _told(conditioner, ["red"]).context[0])


def test_a_long_prompt_is_refused_with_its_count(conditioner: TextConditioner, sessions: Counting) -> None:
    conditioner.turns(["a red blue circle", ""])
    with pytest.raises(RequestError, match=r"5 tokens, at most 4 fit in text_encoder \('a red blue circle square'\)"):
        conditioner.turns(["a", "a red blue circle square"])
    assert sessions.calls == []


def test_a_missing_tokenizer_is_refused(bundle: Bundle, sessions: Counting) -> None:
    tokenizers = open_tokenizers(bundle)
    del tokenizers["text_encoder_3"]
    with pytest.raises(BundleError, match="no tokenizer of text_encoder_3"):
        TextConditioner(tokenizers, sessions, JOINT)
