"""What a worker needs of a pipeline: `unipic2_edge.runtime.Pipeline` has it, and so can a stand-in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from PIL import Image

from ..answer import Answer
from ..placement import Placement
from ..result import Result


class Pictures(Protocol):
    """Makes pictures, changes them, and answers."""

    interrupt: bool

    @property
    def placement(self) -> Placement | None:
        """Where it runs, as far as it is known."""
        ...

    @property
    def most_pictures(self) -> int | None:
        """How many pictures its engines make at once, at most."""
        ...

    @property
    def generate(self) -> Callable[..., Result]:
        """Pictures from words."""
        ...

    @property
    def edit(self) -> Callable[..., Result]:
        """Changed pictures."""
        ...

    @property
    def describe(self) -> Callable[..., Answer]:
        """Answers in words."""
        ...

    def decode(self, latents: Any) -> list[Image.Image]:
        """Previews."""
        ...

    def stage(self, on: bool) -> None:
        """Give memory back; from now on hold one graph at a time, or as planned again."""
        ...

    def close(self) -> None:
        """Give memory back."""
        ...
