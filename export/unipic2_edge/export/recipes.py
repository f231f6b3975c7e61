"""Export recipes: in which precision a bundle's weights and arithmetic are."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from unipic2_edge.runtime.errors import RecipeError

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ExportRecipe:
    """One precision for all components; `version` changes when a recipe's meaning does."""

    name: str
    precision: str
    version: int = 1

    @property
    def dtype(self) -> torch.dtype:
        """The torch dtype of weights and arithmetic; graphs take and give float32 whatever it is."""
        return _DTYPES[self.precision]

    def to_dict(self) -> dict[str, str | int]:
        """JSON-ready fields."""
        return asdict(self)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        ExportRecipe("fp32", "float32"),
        ExportRecipe("fp16", "float16"),
        ExportRecipe("bf16", "bfloat16"),
    )
}


def find_recipe(name: str) -> ExportRecipe:
    """A built-in recipe by name.

    Raises:
        RecipeError: there is none of that name.
    """
    if name not in RECIPES:
        raise RecipeError(f"there is no export recipe {name!r}", f"use one of {', '.join(RECIPES)}")
    return RECIPES[name]
