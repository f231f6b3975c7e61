"""The shapes world as records: the same draws that training makes, with nothing that is held out."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from PIL import Image

from ..shapes.captions import training_caption
from ..shapes.edits import training_edit
from ..shapes.questions import ask, training_scene
from ..shapes.render import Picture, render
from ..shapes.scene import Canvas, sample_scene
from .kinds import FIELDS, Kind

Record = Mapping[str, bytes | str]  # field → PNG or text


def shapes_records(kind: Kind, count: int, canvases: Sequence[Canvas], seed: int) -> Iterator[Record]:
    """`count` records of a kind, record k a function of (seed, kind, k); canvases are drawn evenly."""
    for number in range(count):
        rng = np.random.default_rng([seed, list(FIELDS).index(kind), number])
        yield _MAKERS[kind](rng, canvases[int(rng.integers(len(canvases)))])


def png(picture: Picture) -> bytes:
    """A picture [H, W, 3] as a PNG."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def _caption(rng: np.random.Generator, canvas: Canvas) -> Record:
    while True:
        scene = sample_scene(rng, canvas)
        caption = training_caption(scene, rng)
        if caption is not None:
            return {"image": png(render(scene)), "caption": caption.text}


def _edit(rng: np.random.Generator, canvas: Canvas) -> Record:
    edit = training_edit(rng, canvas)
    return {"source": png(render(edit.source)), "target": png(render(edit.target)), "instruction": edit.text}


def _question(rng: np.random.Generator, canvas: Canvas) -> Record:
    while True:
        scene = training_scene(rng, canvas)
        question = ask(scene, rng)
        if question is not None:
            return {"image": png(render(scene)), "question": question.text, "answer": question.answer}


_MAKERS = {"captions": _caption, "edits": _edit, "questions": _question}
