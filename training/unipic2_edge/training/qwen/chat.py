"""Conversations as Qwen2.5-VL reads them: turns become token ids, and labels on the answers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .tokenizer import IMAGE_PAD, SYSTEM_TURN, TURN_END, TURN_START, VISION_END, VISION_START

IGNORED = -100  # the label of a token that is not learnt


@dataclass(frozen=True)
class Conversation:
    """Token ids and, for each, the label: itself where it belongs to an answer, else `IGNORED`."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]


class Chat:
    """Writes conversations in the published chat template, without Jinja and with the picture's tokens spread out."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.image_id = int(tokenizer.convert_tokens_to_ids(IMAGE_PAD))
        self.end_id = int(tokenizer.convert_tokens_to_ids(TURN_END))
        self.pad_id = int(tokenizer.pad_token_id)
        self._encode = lru_cache(maxsize=65_536)(self._ids)

    def prompt(self, text: str, image_tokens: int = 0, system: bool = False) -> tuple[int, ...]:
        """One user turn, the picture first, up to where the answer begins.

        Args:
            text: what the user says.
            image_tokens: how many tokens the picture has; 0 is no picture.
            system: whether the default system prompt comes first, as the published template has it by itself.
        """
        return self._encode(_user_turn(text, image_tokens, system, first=True))

    def conversation(
        self, turns: Sequence[tuple[str, str]], image_tokens: int = 0, system: bool = False
    ) -> Conversation:
        """Turns of (question, answer), a picture before the first question."""
        ids: list[int] = []
        labels: list[int] = []
        for number, (question, answer) in enumerate(turns):
            asked = self._encode(_user_turn(question, image_tokens, system, first=number == 0))
            answered = self._encode(answer + TURN_END)
            ids += [*asked, *answered]
            labels += [*[IGNORED] * len(asked), *answered]
        return Conversation(tuple(ids), tuple(labels))

    def padded(self, conversations: Sequence[Conversation], multiple: int = 8) -> tuple[Tensor, Tensor]:
        """Ids and labels, each [B, S] int64, padded on the right to a multiple of `multiple`."""
        longest = max(len(each.ids) for each in conversations)
        length = -(-longest // multiple) * multiple
        ids = torch.full((len(conversations), length), self.pad_id)
        labels = torch.full((len(conversations), length), IGNORED)
        for row, each in enumerate(conversations):
            ids[row, : len(each.ids)] = torch.tensor(each.ids)
            labels[row, : len(each.labels)] = torch.tensor(each.labels)
        return ids, labels

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)


def _user_turn(text: str, image_tokens: int, system: bool, first: bool) -> str:
    picture = VISION_START + IMAGE_PAD * image_tokens + VISION_END if image_tokens and first else ""
    # A later turn comes after an answer's end token, whose line it ends first.
    before = (SYSTEM_TURN if system else "") if first else "\n"
    return f"{before}{TURN_START}user\n{picture}{text}{TURN_END}\n{TURN_START}assistant\n"
