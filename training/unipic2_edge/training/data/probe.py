"""The first records of the data, looked at again and again as a model trains: a loss that only it moves, and a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..shapes.render import Picture
from .samples import Sample
from .stream import Stream

COUNT = 4  # records of each task
_SHOWN = 256  # pixels: the longer side in the grid


@dataclass(frozen=True)
class Probe:
    """The first records of one task that have one size."""

    edit: bool
    samples: tuple[Sample, ...]

    @classmethod
    def of(cls, stream: Stream, edit: bool) -> Probe:
        """The first micro-batch of a stream of its own."""
        return cls(edit, tuple(stream.batch()))

    @property
    def texts(self) -> list[str]:
        """Captions or instructions."""
        return [sample.texts[0] for sample in self.samples]

    def pictures(self, view: int) -> list[Picture]:
        """The sources (0) or, the last (-1), what should be made."""
        return [picture for sample in self.samples if (picture := sample.views[view].picture) is not None]

    def rows(self, made: Sequence[Picture]) -> list[Picture]:
        """For the grid, three for each record: source or nothing, what was made, what should have been."""
        wanted = self.pictures(-1)
        sources = self.pictures(0) if self.edit else [np.zeros_like(picture) for picture in wanted]
        return [each for row in zip(sources, made, wanted, strict=True) for each in row]


def framed(pictures: Sequence[Picture]) -> list[Picture]:
    """Pictures of any sizes in frames of one, at most 256×256, what is left of it black: so that they fit one grid."""
    side = min(_SHOWN, max(max(picture.shape) for picture in pictures))
    frames = np.zeros((len(pictures), side, side, 3), np.uint8)
    for frame, picture in zip(frames, pictures, strict=True):
        height, width, _ = picture.shape
        scale = min(1.0, side / max(height, width))
        small = Image.fromarray(picture).resize((max(1, round(width * scale)), max(1, round(height * scale))))
        frame[: small.height, : small.width] = np.asarray(small)
    return list(frames)
