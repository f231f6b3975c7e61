"""Questions answered by a Qwen2.5-VL, greedily and in batches: the score of what it understands."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from ..shapes.render import Picture
from .chat import Chat
from .model import answers
from .sight import Sight, positions

_LONGEST = 40  # tokens of an answer
_AT_ONCE = 64


def answer(
    model: Any,
    chat: Chat,
    sight: Sight,
    asked: Sequence[tuple[str, Picture]],
    editing: bool = False,
    limit: int = _LONGEST,
) -> list[str]:
    """An answer to each question about its picture; all pictures of one size.

    Args:
        model: a Qwen2.5-VL.
        chat: of its tokenizer.
        sight: of its image processor.
        asked: questions, each with its picture [H, W, 3] uint8.
        editing: see as the conditioning does (editing size, sequential positions, no system prompt), else as one who
            asks (the processor's size, M-RoPE, the default system prompt).
        limit: the most tokens of an answer.
    """
    found: dict[int, str] = {}
    groups: dict[int, list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
    _, grid = sight.patches([asked[0][1]], editing)
    for number, (question, _) in enumerate(asked):
        prompt = chat.prompt(question, sight.tokens(grid), system=not editing)
        groups[len(prompt)].append((number, prompt))
    parts = [group[start : start + _AT_ONCE] for group in groups.values() for start in range(0, len(group), _AT_ONCE)]
    for part in parts:
        patches, _ = sight.patches([asked[number][1] for number, _ in part], editing)
        ids = torch.tensor([prompt for _, prompt in part], device=model.device)
        first = int((ids[0] == chat.image_id).int().argmax())
        places = positions(ids.shape[1], first, None if editing else grid, sight.merge)
        made = answers(model, ids, places, patches.to(model.device), grid, limit, (chat.end_id, chat.pad_id))
        found |= {number: chat.tokenizer.decode(row) for (number, _), row in zip(part, made, strict=True)}
    return [found[number] for number in range(len(asked))]
