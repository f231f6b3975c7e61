"""Every word of the shapes world, for building its tokenizers and for the text stage."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..shapes.captions import caption_for
from ..shapes.edits import sample_edit
from ..shapes.questions import ask
from ..shapes.scene import Canvas, sample_scene


def sentences(count: int, seed: int = 0) -> Iterator[str]:
    """`count` captions and as many instructions, drawn at random."""
    rng = np.random.default_rng(seed)
    canvas = Canvas(64, 64)
    made = 0
    while made < count:
        caption = caption_for(sample_scene(rng, canvas), rng)
        if caption is not None:
            yield caption.text
            yield sample_edit(rng, canvas).text
            made += 1


def chat_sentences(count: int, seed: int = 0) -> Iterator[str]:
    """`count` captions with as many instructions, generation prompts, and questions with their answers."""
    rng = np.random.default_rng([seed, 1])
    canvas = Canvas(64, 64)
    for text in sentences(count, seed):
        yield text
        yield f"Generate an image: {text}"
        question = ask(sample_scene(rng, canvas), rng)
        if question is not None:
            yield f"{question.text} {question.answer}"
