"""Recipes: what is shipped loads, and what is wrong is said in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from unipic2_edge.training.errors import RecipeError
from unipic2_edge.training.loop.trainer import learning_rate
from unipic2_edge.training.recipe import RECIPES, load_recipe

SHIPPED = sorted(path.stem for path in RECIPES.glob("*.toml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_load(name: str) -> None:
    assert load_recipe(name).name == name


def test_overrides_reach_nested_fields() -> None:
    recipe = load_recipe("shapes-kontext", ["schedule.steps=7", "seed=5", "optimizer.name=adamw"])
    assert (recipe.schedule.steps, recipe.seed, recipe.optimizer.name) == (7, 5, "adamw")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("schedule.steps=0", "schedule.steps is 0, expected a whole number of at least 1"),
        ("schedule.step=3", "step"),
        ("batch_size=many", "batch_size"),
        ("data.sizes=[[60,64],[96,64],[64,96]]", "multiples of 32"),
        ("data.edit_share=1.5", "edit_share"),
        ("nonsense", "KEY=VALUE"),
        ("seed.x=1", "not a table"),
    ],
)
def test_wrong_overrides_are_refused(override: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        load_recipe("shapes-kontext", [override])


def test_unknown_and_broken_recipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no recipe"):
        load_recipe("no-such-recipe")
    broken = tmp_path / "broken.toml"
    broken.write_text("name = [")
    with pytest.raises(RecipeError, match="TOML"):
        load_recipe(str(broken))


def test_learning_rate_warms_up_holds_and_falls_to_zero() -> None:
    schedule = load_recipe(
        "shapes-kontext", ["schedule.steps=100", "schedule.warmup=10", "schedule.decay=0.5"]
    ).schedule
    factors = [learning_rate(schedule, step) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[10:50] == [1.0] * 40
    assert factors[75] == pytest.approx(0.5)
    assert factors[100] == 0.0
