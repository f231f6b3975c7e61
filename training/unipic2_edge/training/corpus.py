"""Every word of the shapes world, for building its tokenizers and for the text stage."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .shapes.captions import caption_for
from .shapes.edits import sample_edit
from .shapes.scene import Canvas, sample_scene


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
