"""Quantised bundles of the tiny model: calibrated, judged, the same bytes twice, and refused with their numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import onnx_ir as ir
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from unipic2_edge.export import bundle_writer
from unipic2_edge.export.assembly import assemble
from unipic2_edge.export.builtin_recipes import AUTO, find_recipe
from unipic2_edge.export.graph_specs import GraphSpec
from unipic2_edge.export.quality import read_gate
from unipic2_edge.export.quantization.auto import parse_budget
from unipic2_edge.export.quantized_export import Exported, ExportOptions, export_bundle
from unipic2_edge.export.recipes import CalibrationSettings, GateThresholds, Recipe
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.errors import CheckpointError, RecipeError, WorkError
from unipic2_edge.training.checkpoint import Checkpoint

QUICK = CalibrationSettings(prompts=1, steps=2, size=(64, 64), rows=32)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _traced_once() -> Iterator[None]:
    """Graphs are traced once for all bundles of this module, which differ in what is done to them afterwards."""
    known: dict[tuple[str, str], ir.Model] = {}

    def assembled(spec: GraphSpec) -> ir.Model:
        key = (spec.name, str(next(spec.stages[-1].module.parameters()).dtype))
        if key not in known:
            known[key] = assemble(spec)
        return known[key].clone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle_writer, "assemble", assembled)
        yield


def _recipe(name: str, gate: GateThresholds | None = None) -> Recipe:
    recipe = find_recipe(name).with_precision("fp32")
    return msgspec.structs.replace(recipe, calibration=QUICK, gate=gate or GateThresholds())


def _export(checkpoint: Path, folder: Path, recipe: Recipe, **options: object) -> Exported:
    return export_bundle(Checkpoint.open(checkpoint), folder, recipe, ExportOptions(**options))  # type: ignore[arg-type]


def test_a_bundle_says_what_it_lost(tiny_checkpoint: Path, tmp_path: Path) -> None:
    made = _export(tiny_checkpoint, tmp_path / "bundle", _recipe("int8", GateThresholds(velocity=0.5)))
    bundle = Bundle(tmp_path / "bundle")
    assert made.judged is not None
    fake, onnx, engine = made.judged.stages
    assert fake.velocity is not None
    assert onnx.velocity is not None
    assert engine.velocity is not None
    assert 0 < fake.velocity < 0.2
    assert onnx.velocity == pytest.approx(fake.velocity, rel=0.3)
    assert engine.velocity == pytest.approx(onnx.velocity, rel=0.3)  # nothing saturates
    assert len(onnx.velocity_by_step) == 2
    assert onnx.pictures is not None
    assert onnx.pictures.psnr > 20
    assert read_gate(bundle) == msgspec.json.decode(msgspec.json.encode(made.judged.to_dict()))
    record = json.loads((tmp_path / "bundle" / "recipe.json").read_text())
    assert record["recipe"]["name"] == "int8"
    assert len(record["calibration_sha256"]) == 64
    assert bundle.manifest.components["denoiser"].label == "int8 in float32"
    assert bundle.manifest.components["vae"].label == "float32"


def test_twice_the_same_is_the_same_bytes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    files = []
    for name in ("one", "two"):
        made = _export(tiny_checkpoint, tmp_path / name, _recipe("int4"), components=("denoiser",), gate=False)
        files.append(made.manifest.files)
    assert files[0] == files[1]


def test_a_bundle_that_loses_too_much_is_not_written(tiny_checkpoint: Path, tmp_path: Path) -> None:
    strict = _recipe("int4-weight", GateThresholds(velocity=1e-6))
    with pytest.raises(WorkError, match="misses its recipe's gate: fake quantisation: velocity error 0") as caught:
        _export(tiny_checkpoint, tmp_path / "bundle", strict)
    assert "--no-gate" in caught.value.mend
    assert not (tmp_path / "bundle").exists()
    _export(tiny_checkpoint, tmp_path / "bundle", strict, gate=False)
    assert not (tmp_path / "bundle" / "quality.json").exists()


def test_a_folder_of_ones_own_calibrates(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "red.png")
    (folder / "prompts.txt").write_text("a red circle\n\n", encoding="utf-8")
    (folder / "edits.txt").write_text("red.png\tmake it blue\n", encoding="utf-8")
    recipe = _recipe("int8")
    options = {"components": ("denoiser",), "gate": False, "calibration": folder}
    _export(tiny_checkpoint, tmp_path / "bundle", recipe, **options)
    (folder / "edits.txt").write_text("no tab here\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="has a line that is no edit"):
        _export(tiny_checkpoint, tmp_path / "again", recipe, **options)
    (folder / "edits.txt").write_text("", encoding="utf-8")
    with pytest.raises(RecipeError, match="the calibration set is empty"):
        _export(tiny_checkpoint, tmp_path / "again", recipe, **options)


def test_weights_that_are_no_numbers_are_refused(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_writer, "assemble", assemble)  # the graphs traced for others have others' weights
    copy = Path(shutil.copytree(tiny_checkpoint, tmp_path / "broken"))
    path = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if name.endswith("ff.net.2.weight"))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"ff\.net\.2 hold NaN"):
        _export(copy, tmp_path / "bundle", _recipe("int8-weight"), components=("denoiser",), gate=False)
    with pytest.raises(WorkError, match="calibration met NaN or infinity in the inputs of"):
        _export(copy, tmp_path / "bundle", _recipe("int8"), components=("denoiser",), gate=False)
    assert not (tmp_path / "bundle").exists()


def test_auto_finds_a_recipe_within_its_budget(tiny_checkpoint: Path, tmp_path: Path) -> None:
    recipe = msgspec.structs.replace(AUTO.with_precision("fp32"), calibration=QUICK)
    made = _export(
        tiny_checkpoint,
        tmp_path / "bundle",
        recipe,
        budget=parse_budget("velocity=0.03"),
        formats=("int4-weight", "int8-weight"),
    )
    assert made.judged is not None
    assert made.judged.stages[0].velocity is not None
    assert made.judged.stages[0].velocity <= 0.03
    formats = {rule.weights for rule in made.recipe.of("denoiser").rules}
    assert len(formats) > 1
    (tmp_path / "mine.json").write_bytes(made.recipe.to_json())
    again = _export(tiny_checkpoint, tmp_path / "again", find_recipe(str(tmp_path / "mine.json")), gate=False)
    assert again.manifest.files["weights/denoiser.safetensors"] == made.manifest.files["weights/denoiser.safetensors"]
