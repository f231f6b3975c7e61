"""Logits → the next token: greedy, or drawn after repetition penalty, temperature, top-k and top-p, in that order.

Each is defined as transformers' logits processor of the same name; draws come from numpy's PCG64, so that the same
seed and the same logits give the same words on every machine.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError, WorkError

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


class SamplingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the next token is chosen; temperature 0 is greedy, top_k 0 and top_p 1 keep all tokens.

    Raises:
        RequestError: a value out of range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise RequestError(f"the temperature cannot be {self.temperature}", "give 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise RequestError(f"top_p cannot be {self.top_p}", "give more than 0 and at most 1")
        if self.top_k < 0:
            raise RequestError(f"top_k cannot be {self.top_k}", "give 0 (all tokens) or more")
        if not 0 < self.repetition_penalty < float("inf"):
            raise RequestError(f"the repetition penalty cannot be {self.repetition_penalty}", "give more than 0")
        if self.seed < 0:
            raise RequestError(f"the seed cannot be {self.seed}", "give 0 or more")


class Sampler:
    """Chooses the tokens of one answer; its random state goes on from token to token."""

    def __init__(self, settings: SamplingSettings) -> None:
        self._settings = settings
        self._random = np.random.Generator(np.random.PCG64(settings.seed))

    def __call__(self, logits: Floats, previous: Ids) -> int:
        """The next token's id.

        Args:
            logits: [V], finite.
            previous: the ids so far, prompt included, for the repetition penalty.

        Raises:
            WorkError: the logits hold NaN, as a model does whose numbers overflowed.
        """
        if np.isnan(logits).any():
            raise WorkError(
                "the language model gave NaN instead of words",
                "use a bundle whose language model is in bfloat16 or float32",
            )
        if self._settings.temperature == 0:
            return int(penalised(logits, previous, self._settings.repetition_penalty).argmax())
        reach = distribution(logits, previous, self._settings).cumsum()
        return int(np.searchsorted(reach, self._random.random() * reach[-1], side="right"))


def distribution(logits: Floats, previous: Ids, settings: SamplingSettings) -> NDArray[np.float64]:
    """The probabilities [V] that a token is drawn from; `settings.temperature` is above 0."""
    scores = penalised(logits, previous, settings.repetition_penalty)
    scores /= np.float32(settings.temperature)
    if 0 < settings.top_k < len(scores):
        scores[scores < np.partition(scores, -settings.top_k)[-settings.top_k]] = -np.inf
    shares = _softmax(scores)
    return shares if settings.top_p == 1 else _nucleus(shares, settings.top_p)


def penalised(logits: Floats, previous: Ids, penalty: float) -> Floats:
    """Logits [V] with those of earlier tokens divided (where positive) or multiplied by `penalty`. arXiv 1909.05858."""
    scores = logits.astype(np.float32)  # a copy
    if penalty != 1:
        seen = np.unique(previous[previous >= 0])
        found, factor = scores[seen], np.float32(penalty)
        scores[seen] = np.where(found < 0, found * factor, found / factor)
    return scores


def _nucleus(shares: NDArray[np.float64], top_p: float) -> NDArray[np.float64]:
    """The fewest most likely tokens that have `top_p` together; the others' shares become 0. arXiv 1904.09751."""
    # All tokens below (1 − top_p) / V have less than 1 − top_p together: gone without being sorted.
    likely = np.flatnonzero(shares >= min((1 - top_p) / len(shares), shares.max()))
    order = likely[shares[likely].argsort(kind="stable")]  # least likely first
    below = shares[order].cumsum() + (1 - shares[order].sum())
    kept = np.append(order[:-1][below[:-1] > 1 - top_p], order[-1])
    nucleus = np.zeros_like(shares)
    nucleus[kept] = shares[kept] / shares[kept].sum()
    return nucleus


def _softmax(scores: Floats) -> NDArray[np.float64]:
    powers = np.exp(scores.astype(np.float64) - scores.max())
    shares: NDArray[np.float64] = powers / powers.sum()
    return shares
