"""What a recipe's tables are made of, and those that several of its stages share."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=1)]
Whole = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
AtLeastOne = Annotated[float, Meta(ge=1)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Decay = Annotated[float, Meta(ge=0, lt=1)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the recipe's tables: immutable, strict about unknown fields."""


class Adapter(Section, frozen=True):
    """A LoRA: y = W·x + (alpha / rank)·B·A·x on the linear layers whose names end in one of `targets`.

    The defaults are those of flow_grpo for SD3.5-Medium: every projection of the attentions.
    """

    rank: Count = 32
    alpha: Positive = 64
    targets: tuple[str, ...] = (
        *("to_q", "to_k", "to_v", "to_out.0"),
        *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    )
