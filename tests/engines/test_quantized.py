"""Quantised bundles of the tiny model, compiled for exactly the cards that their formats run on."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from unipic2_edge.engines.build import build_targets
from unipic2_edge.export.builtin_recipes import find_recipe
from unipic2_edge.export.quantized_export import ExportOptions, export_bundle
from unipic2_edge.export.recipes import CalibrationSettings
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.engine import read_target
from unipic2_edge.runtime.errors import RequestError
from unipic2_edge.training.checkpoint import Checkpoint

tensorrt_rtx = pytest.importorskip("tensorrt_rtx")

QUICK = CalibrationSettings(prompts=1, steps=1, size=(64, 64), rows=32)
#: Recipe → the targets it is compiled for here, and one that it is refused for.
CLAIMS = {
    "int8": ("rtx-30,rtx-40,rtx-50,a100", "rtx-20"),
    "rtx-20": ("rtx-20", "dgx-spark"),
    "fp8": ("rtx-40,rtx-50", "rtx-30"),
    "fp8-attention": ("rtx-40,rtx-50", "a100"),
    "int4": ("rtx-30,rtx-40,rtx-50,a100", "rtx-20"),
    "nvfp4": ("rtx-50", "rtx-40"),
    "nvfp4-weight": ("rtx-50", "rtx-30"),
    "svdquant": ("rtx-30,rtx-50", "rtx-20"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CLAIMS)
def test_a_recipe_compiles_for_what_it_claims_and_is_refused_elsewhere(
    name: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    targets, elsewhere = CLAIMS[name]
    recipe = msgspec.structs.replace(find_recipe(name), calibration=QUICK)
    options = ExportOptions(components=("denoiser",), gate=False)
    export_bundle(Checkpoint.open(tiny_checkpoint), tmp_path / "bundle", recipe, options)
    bundle = Bundle(tmp_path / "bundle")
    build_targets(bundle, targets)
    for target in targets.split(","):
        record = read_target(bundle, target)
        assert record is not None
        assert set(record.engines) == {"modulation", "denoiser"}
    with pytest.raises(RequestError):
        build_targets(bundle, elsewhere)
