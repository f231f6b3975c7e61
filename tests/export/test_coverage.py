"""What runs quantised, counted on the graphs of tiny bundles and held against counts by hand."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from unipic2_edge.export.builtin_recipes import find_recipe
from unipic2_edge.export.coverage import Product, coverage_lines, products, share
from unipic2_edge.export.quantized_export import ExportOptions, export_bundle
from unipic2_edge.export.recipes import CalibrationSettings
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.training.checkpoint import Checkpoint

SIZE = (96, 64)
TOKENS, CONTEXT, HIDDEN = 2 * 6 * 4, 33, 64  # 16 pixels a token; the reference's tokens and the picture's


@pytest.fixture(scope="module")
def plain(tiny_bundle: Path) -> list[Product]:
    return products(Bundle(tiny_bundle), "denoiser", SIZE)


def _quantised(checkpoint: Path, folder: Path, name: str) -> list[Product]:
    recipe = msgspec.structs.replace(
        find_recipe(name), calibration=CalibrationSettings(prompts=1, steps=1, size=(64, 64), rows=32)
    )
    options = ExportOptions(("denoiser",), gate=False)
    export_bundle(Checkpoint.open(checkpoint), folder, recipe, options)
    return products(Bundle(folder), "denoiser", SIZE)


def test_operations_are_those_counted_by_hand(plain: list[Product]) -> None:
    by_name = {product.name: product for product in plain}
    assert by_name["denoiser.patch_embedder"].flops == 2 * 2 * TOKENS * 128 * HIDDEN
    assert by_name["denoiser.transformer_blocks.0.attn.to_qkv"].flops == 2 * 2 * TOKENS * HIDDEN * 3 * HIDDEN
    assert by_name["denoiser.transformer_blocks.0.attn.to_added_qkv"].flops == 2 * 2 * CONTEXT * HIDDEN * 3 * HIDDEN
    both, alone = TOKENS + CONTEXT, TOKENS  # two joint attentions, and one of the picture alone
    attention = sum(product.flops for product in plain if product.kind == "attention")
    assert attention == 2 * (2 * 2 * HIDDEN) * (2 * both**2 + alone**2)


def test_nothing_is_quantised_in_a_plain_bundle(plain: list[Product]) -> None:
    assert share(plain, "linear") == 0
    assert share(plain, "attention") == 0
    assert not any(product.weights or product.inputs for product in plain)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "weights", "inputs", "attention"),
    [("fp8-attention", "fp8", "fp8", 1.0), ("nvfp4", "nvfp4", "nvfp4", 0.0), ("int8-weight", "int8", None, 0.0)],
)
def test_the_linear_work_is_quantised(
    recipe: str,
    weights: str,
    inputs: str | None,
    attention: float,
    plain: list[Product],
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    found = _quantised(tiny_checkpoint, tmp_path / "bundle", recipe)
    assert sum(product.flops for product in found) == sum(product.flops for product in plain)
    assert (share(found, "linear") or 0) > 0.9  # the two that stay are 9.5 % at this size, 0.03 % at full size
    assert share(found, "attention") == attention
    linear = [product for product in found if product.kind == "linear" and product.quantised]
    assert {(product.weights, product.inputs) for product in linear} == {(weights, inputs)}
    assert {product.name.split(".")[-1] for product in found if not product.quantised and product.kind == "linear"} == {
        "patch_embedder",
        "proj_out",
    }
    assert coverage_lines("denoiser", found)[0].startswith("denoiser: ")


@pytest.mark.slow
def test_a_low_rank_branch_counts_as_what_it_is(plain: list[Product], tiny_checkpoint: Path, tmp_path: Path) -> None:
    found = _quantised(tiny_checkpoint, tmp_path / "bundle", "svdquant")
    assert sum(product.flops for product in found) > sum(product.flops for product in plain)
    assert 0.3 < (share(found, "linear") or 0) < 0.95  # a branch of rank 32 beside layers of 64 is much
