"""A token sequence with the pictures that stand among its tokens, and the marks that tell two sequences apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .positions import picture_starts, rope_index
from .preprocessing import SeenPicture, count_tokens
from .settings import QwenSettings, Rope

Ids = NDArray[np.int64]

#: Stands where a meta query does: a place in the sequence that has an embedding and no token.
QUERY = -1


class TokenSequence(NamedTuple):
    """Ids [S] int64 (image pads where pictures stand, `QUERY` where meta queries do) and the pictures, in order."""

    ids: Ids
    pictures: tuple[SeenPicture, ...] = ()

    def with_queries(self, count: int) -> TokenSequence:
        """The same, followed by `count` meta queries."""
        return self._replace(ids=np.concatenate([self.ids, np.full(count, QUERY, np.int64)]))

    def positions(self, settings: QwenSettings, rope: Rope) -> Ids:
        """Rope indices [3, S]; meta queries count as words.

        Raises:
            ValueError: the pads are not exactly the pictures' tokens.
        """
        grids = [picture.grid for picture in self.pictures]
        return rope_index(self.ids, grids, settings.chat.image_pad_id, settings.vision.merge_size, rope)

    def spans(self, settings: QwenSettings) -> list[tuple[int, int]]:
        """(first, end) of each picture's tokens.

        Raises:
            ValueError: the pads are not exactly the pictures' tokens.
        """
        grids = [picture.grid for picture in self.pictures]
        starts = picture_starts(self.ids, grids, settings.chat.image_pad_id, settings.vision.merge_size)
        return [(start, start + count_tokens(grid, settings.vision)) for start, grid in zip(starts, grids, strict=True)]

    def marks(self, settings: QwenSettings) -> Ids:
        """[S]: each token's id, or for a picture's tokens a number made of its digest.

        Two sequences with equal marks up to some place have equal keys and values up to there.
        """
        marks = self.ids.copy()
        for (start, end), picture in zip(self.spans(settings), self.pictures, strict=True):
            number = int.from_bytes(picture.digest[:8], "little") >> 2  # 62 bits: no vocabulary reaches them
            marks[start:end] = -2 - number
        return marks
