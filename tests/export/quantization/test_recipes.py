"""Recipes: round trips, what is refused, and what the names stand for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from unipic2_edge.engines.targets import TARGETS
from unipic2_edge.export.builtin_recipes import RECIPES, find_recipe
from unipic2_edge.export.quantization.layers import plan_layers, quantize_layer
from unipic2_edge.export.recipes import ComponentRecipe, LayerRule, Recipe, recipe_from_json
from unipic2_edge.runtime.errors import CheckpointError, RecipeError

SHAPES = {f"denoiser.transformer_blocks.{index}.ff.net.2": (64, 32) for index in range(3)}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_its_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(RECIPES[name].to_json())
    assert find_recipe(str(path)) == RECIPES[name]


def test_every_target_has_a_recipe_that_it_runs() -> None:
    for name, target in TARGETS.items():
        parts = [RECIPES[name].of(component) for component in ("denoiser", "text_encoder_3", "vae")]
        formats = {rule.weights for part in parts for rule in part.rules} - {None}
        assert {part.precision for part in parts} | formats <= set(target.precisions), name


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "is not an export recipe"),
        (b"\xff\xfe", "is not an export recipe"),
        (b'{"name": "x", "colour": 3}', "colour"),
        (b'{"name": "x", "version": 99}', "is of recipe version 99"),
        (b'{"name": "x", "other": {"rules": [{"layers": "*", "weights": "int5"}]}}', "int5"),
        (b'{"name": "x", "other": {"precision": "float8"}}', "float8"),
        (b'{"name": "x", "other": {"rules": [{"weights": "int4"}]}}', "layers"),
    ],
)
def test_what_is_no_recipe_is_refused(content: bytes, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        recipe_from_json(content, "mine.json")


@pytest.mark.parametrize("name", ["int5", "missing.json", "denoiser=int5"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(RecipeError):
        find_recipe(name)


def test_components_may_have_recipes_of_their_own() -> None:
    recipe = find_recipe("fp16,denoiser=fp8,text_encoder_3=int4-weight")
    assert recipe.of("denoiser") == RECIPES["fp8"].of("denoiser")
    assert recipe.of("text_encoder_3") == RECIPES["int4-weight"].of("text_encoder_3")
    assert recipe.of("vae").precision == "float16"
    assert find_recipe("denoiser=fp8").of("vae").precision == "bfloat16"


def test_another_precision_leaves_the_rules() -> None:
    recipe = RECIPES["int4"].with_precision("fp16")
    assert recipe.of("denoiser").dtype == torch.float16
    assert recipe.of("denoiser").rules == RECIPES["int4"].of("denoiser").rules
    with pytest.raises(RecipeError, match="no precision 'fp13'"):
        recipe.with_precision("fp13")


def test_a_layer_takes_the_first_rule_that_fits() -> None:
    first = LayerRule(layers="denoiser.transformer_blocks.1.*")
    second = LayerRule(layers="denoiser.*", weights="int4", block=128)
    plans = plan_layers(SHAPES, ComponentRecipe(rules=(first, second)))
    assert sorted(plans) == [name for name in SHAPES if ".1." not in name]
    assert {plan.block for plan in plans.values()} == {64}


def test_a_pattern_that_fits_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"'denoiser\.blocks\.\*' fits no layer") as caught:
        plan_layers(SHAPES, ComponentRecipe(rules=(LayerRule(layers="denoiser.blocks.*", weights="int8"),)))
    assert "denoiser.transformer_blocks" in caught.value.mend


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(value: float) -> None:
    plans = plan_layers(SHAPES, ComponentRecipe(rules=(LayerRule(layers="*", weights="int8"),)))
    weight = torch.ones(64, 32)
    weight[3, 3] = value
    with pytest.raises(CheckpointError, match="hold NaN or infinity"):
        quantize_layer(weight, next(iter(plans.values())))


def test_a_recipe_says_what_it_is_in_words(tmp_path: Path) -> None:
    made = json.loads(Recipe(name="mine").to_json())
    assert (made["name"], made["version"]) == ("mine", 1)
