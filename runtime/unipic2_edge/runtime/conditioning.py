"""What the denoiser is told, and text conditioning as SD3 does it: two CLIPs and T5 make context and pooled (numpy).

Formula: arXiv 2403.03206, §4 and appendix B; no attention mask anywhere, padding is attended to.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from .errors import BundleError, RequestError
from .session import Session
from .tokens import PromptTokenizer

Floats = NDArray[np.float32]

#: The graphs that read text, in the order of the published layout.
TEXT_GRAPHS = ("text_encoder", "text_encoder_2", "text_encoder_3")
_CACHED_PROMPTS = 32  # 5.5 MB each at full size


class Conditioning(NamedTuple):
    """What the denoiser knows of a batch of prompts: context [B, L, J] and pooled [B, P]."""

    context: Floats
    pooled: Floats


class Sessions(Protocol):
    """Opened graphs by name."""

    def __getitem__(self, name: str) -> Session:
        """The opened graph."""
        ...


class Conditioner(Protocol):
    """Words, and pictures to edit → conditioning; the pipeline does not care how it comes about."""

    def graphs(self, *, editing: bool) -> tuple[str, ...]:
        """The graphs that it will need, in the order in which it needs them."""
        ...

    def turns(self, prompts: Sequence[str], pictures: Sequence[Image] | None) -> Sequence[Hashable]:
        """What each row of the denoiser is told: a prompt, with the picture to edit. Equal turns compare equal.

        Args:
            prompts: one for each row.
            pictures: none for generation; else one for each row, in the size of the result.

        Raises:
            RequestError: a prompt is too long, before any graph is opened.
        """
        ...

    def __call__(self, turns: Sequence[Any]) -> Conditioning:
        """The conditioning of turns, in their order.

        Raises:
            WorkError: a graph failed.
        """
        ...


@dataclass(frozen=True)
class TextTurn:
    """A prompt, with its tokens [1, length] for each text graph, which follow from it."""

    prompt: str
    tokens: Mapping[str, NDArray[np.int64]] = field(compare=False)


class TextConditioner:
    """Prompts → conditioning, each prompt encoded once as long as it stays among the most recent ones.

    Args:
        tokenizers: one per text graph.
        sessions: the opened text graphs.
        context_dim: J, the width that CLIP's states are zero-padded to.
    """

    def __init__(self, tokenizers: Mapping[str, PromptTokenizer], sessions: Sessions, context_dim: int) -> None:
        missing = [name for name in TEXT_GRAPHS if name not in tokenizers]
        if missing:
            raise BundleError(
                f"the bundle has no tokenizer of {missing[0]}", "export the checkpoint with all components"
            )
        self._tokenizers, self._sessions, self._context_dim = tokenizers, sessions, context_dim
        self._cache: OrderedDict[str, tuple[Floats, Floats]] = OrderedDict()

    def graphs(self, *, editing: bool) -> tuple[str, ...]:
        """The three encoders, whatever the task."""
        return TEXT_GRAPHS

    def turns(self, prompts: Sequence[str], pictures: Sequence[Image] | None = None) -> Sequence[TextTurn]:
        """The prompts alone, as tokens: these encoders do not see.

        Raises:
            RequestError: a prompt is longer than one of the encoders reads; the message gives both counts.
        """
        read = {prompt: TextTurn(prompt, self._tokens(prompt)) for prompt in dict.fromkeys(prompts)}
        return [read[prompt] for prompt in prompts]

    def _tokens(self, prompt: str) -> dict[str, NDArray[np.int64]]:
        found = {}
        for name in TEXT_GRAPHS:
            try:
                found[name] = self._tokenizers[name]([prompt])
            except RequestError as error:
                shown = prompt if len(prompt) <= 40 else prompt[:37] + "..."
                raise RequestError(f"{error.problem} in {name} ({shown!r})", error.mend) from None
        return found

    def __call__(self, turns: Sequence[TextTurn]) -> Conditioning:
        """The conditioning of turns, in their order; all new prompts are encoded in one batch.

        Raises:
            WorkError: an encoder failed.
        """
        unique = {turn.prompt: turn for turn in turns}
        found = {prompt: self._cache[prompt] for prompt in unique if prompt in self._cache}
        new = [turn for prompt, turn in unique.items() if prompt not in found]
        if new:
            context, pooled = self._encode(new)
            found.update((turn.prompt, (context[row], pooled[row])) for row, turn in enumerate(new))
        self._remember(found)
        return Conditioning(
            np.stack([found[turn.prompt][0] for turn in turns]),
            np.stack([found[turn.prompt][1] for turn in turns]),
        )

    def _encode(self, turns: Sequence[TextTurn]) -> Conditioning:
        first, second, long = (
            self._sessions[name].run({"input_ids": np.concatenate([turn.tokens[name] for turn in turns])})
            for name in TEXT_GRAPHS
        )
        return combine(first, second, long, self._context_dim)

    def _remember(self, used: Mapping[str, tuple[Floats, Floats]]) -> None:
        for prompt, embedding in used.items():
            self._cache[prompt] = embedding
            self._cache.move_to_end(prompt)
        while len(self._cache) > _CACHED_PROMPTS:
            self._cache.popitem(last=False)


def combine(
    first: Mapping[str, Floats], second: Mapping[str, Floats], long: Mapping[str, Floats], context_dim: int
) -> Conditioning:
    """CLIP 1, CLIP 2 and T5 outputs → context [B, L1 + L3, J], pooled [B, P1 + P2].

    The CLIPs' hidden states [B, L1, H1] and [B, L1, H2] stand side by side, zero-padded to J; T5's follow.
    """
    clip = np.concatenate([first["hidden"], second["hidden"]], axis=-1)  # [B, L1, H1 + H2]
    batch, length, width = clip.shape
    context = np.zeros((batch, length + long["hidden"].shape[1], context_dim), dtype=np.float32)
    context[:, :length, :width] = clip
    context[:, length:] = long["hidden"]
    return Conditioning(context, np.concatenate([first["pooled"], second["pooled"]], axis=-1))
