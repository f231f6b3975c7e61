"""The shapes world's reward: the verifier with partial credit."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import RecipeError
from ..shapes.captions import Caption
from ..shapes.credit import Credit, credit_edit, credit_generation
from ..shapes.edits import Edit
from .reward import Asked, Picture, Rating, Reward


class ShapesReward(Reward):
    """1 where the verifier says right, at most 0.8 elsewhere; see `shapes/credit.py`."""

    name = "shapes"

    def rate(self, asked: Sequence[Asked], pictures: Sequence[Picture]) -> list[Rating]:
        """By each request's record.

        Raises:
            RecipeError: a record is not of the shapes world.
        """
        credits = [_credit(request, picture) for request, picture in zip(asked, pictures, strict=True)]
        return [Rating(credit.value, credit.parts) for credit in credits]


def _credit(asked: Asked, picture: Picture) -> Credit:
    if isinstance(asked.record, Edit) and asked.source is not None:
        return credit_edit(picture, asked.source, asked.record)
    if isinstance(asked.record, Caption):
        return credit_generation(picture, asked.record)
    raise RecipeError(f"the reward shapes cannot rate {asked.text!r}", 'it needs reinforce.prompts = "shapes"')
