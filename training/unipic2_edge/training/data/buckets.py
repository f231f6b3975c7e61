"""Aspect-ratio buckets: the sizes to which pictures are brought, so that a micro-batch has one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .pictures import Size

STEP = 32  # pixels: sides are multiples of it, as the published model's


@dataclass(frozen=True)
class Buckets:
    """Sizes (width, height), and which of them suits a picture."""

    sizes: tuple[Size, ...]

    @classmethod
    def within(cls, side: int, longest: float) -> Buckets:
        """All sizes of at most side² pixels that no other contains, up to a ratio of `longest` of their sides."""
        pixels = side * side
        widths = range(STEP, pixels // STEP + 1, STEP)
        candidates = [(width, int(min(pixels // width, longest * width)) // STEP * STEP) for width in widths]
        shaped = [size for size in candidates if 0 < size[0] <= longest * size[1]]
        kept = [size for size in shaped if sum(_contains(other, size) for other in shaped) == 1]  # by itself alone
        return cls(tuple(kept))

    def of(self, size: Size) -> Size:
        """The bucket whose ratio of sides is nearest to that of `size`; of two the larger."""
        ratio = math.log(size[0] / size[1])
        return min(self.sizes, key=lambda each: (abs(math.log(each[0] / each[1]) - ratio), -each[0] * each[1]))


def _contains(outer: Size, inner: Size) -> bool:
    return outer[0] >= inner[0] and outer[1] >= inner[1]


def buckets(sizes: Sequence[Size], side: int, longest: float) -> Buckets:
    """The sizes themselves, or with `side` all within its budget."""
    return Buckets.within(side, longest) if side else Buckets(tuple(sizes))
