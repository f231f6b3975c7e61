"""Questions answered by a Qwen2.5-VL, greedily and in batches: the score of what it understands."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from .chat import Chat
from .qwen import answers
from .shapes.questions import Question
from .shapes.render import render
from .sight import Sight, positions

_LONGEST = 40  # tokens of an answer
_AT_ONCE = 64


def answer_questions(
    model: Any, chat: Chat, sight: Sight, questions: Sequence[Question], editing: bool = False
) -> list[str]:
    """An answer to each question, the picture drawn from its scene; all scenes of one size.

    Args:
        model: a Qwen2.5-VL.
        chat: of its tokenizer.
        sight: of its image processor.
        questions: with their scenes.
        editing: see as the conditioning does (editing size, sequential positions, no system prompt), else as one who
            asks (the processor's size, M-RoPE, the default system prompt).
    """
    found: dict[int, str] = {}
    groups: dict[int, list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
    _, grid = sight.patches([render(questions[0].scene)], editing)
    for number, question in enumerate(questions):
        prompt = chat.prompt(question.text, sight.tokens(grid), system=not editing)
        groups[len(prompt)].append((number, prompt))
    for group in groups.values():
        for start in range(0, len(group), _AT_ONCE):
            part = group[start : start + _AT_ONCE]
            patches, _ = sight.patches([render(questions[number].scene) for number, _ in part], editing)
            ids = torch.tensor([prompt for _, prompt in part], device=model.device)
            first = int((ids[0] == chat.image_id).int().argmax())
            places = positions(ids.shape[1], first, None if editing else grid, sight.merge)
            made = answers(model, ids, places, patches.to(model.device), grid, _LONGEST, (chat.end_id, chat.pad_id))
            texts = [chat.tokenizer.decode(row) for row in made]
            found |= {number: text for (number, _), text in zip(part, texts, strict=True)}
    return [found[number] for number in range(len(questions))]
