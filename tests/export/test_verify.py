"""`verify`: passes where the numbers are the checkpoint's, and fails where they are not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from unipic2_edge.export.builtin_recipes import find_recipe
from unipic2_edge.export.bundle_writer import write_bundle
from unipic2_edge.export.verify import TOLERANCE, Drift, verify
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.cli import main
from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.init import init_checkpoint


def test_every_output_of_every_component_is_the_checkpoints(tiny_bundle: Path, tiny_checkpoint: Path) -> None:
    drifts = verify(Bundle(tiny_bundle), Checkpoint.open(tiny_checkpoint))
    assert {(drift.component, drift.output) for drift in drifts} == {
        ("denoiser", "velocity"),
        ("vae", "mean"),
        ("vae", "logvar"),
        ("vae", "image"),
        ("text_encoder", "hidden"),
        ("text_encoder", "pooled"),
        ("text_encoder_2", "hidden"),
        ("text_encoder_2", "pooled"),
        ("text_encoder_3", "hidden"),
    }
    assert {drift.case.split()[0] for drift in drifts if drift.component == "denoiser"} == {"generate", "edit"}
    assert max(drift.relative for drift in drifts) < 1e-5
    assert all(drift.passed for drift in drifts)


def test_another_checkpoints_numbers_fail(tiny_bundle: Path, tmp_path: Path) -> None:
    other = init_checkpoint("tiny-kontext", tmp_path / "other", seed=9)
    drifts = verify(Bundle(tiny_bundle), other)
    assert not any(drift.passed for drift in drifts)


def test_the_command_records_what_it_measured(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    assert main(["verify", str(bundle), "--checkpoint", str(tiny_checkpoint), "--json", "--quiet"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    quality = json.loads((bundle / "quality.json").read_text())
    assert answer["ok"] is True
    assert quality["drifts"] == answer["drifts"]
    assert set(answer["worst"]) == set(Bundle(bundle).manifest.components)
    # Without a checkpoint: the same figures, read back.
    assert main(["verify", str(bundle), "--json"]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (answer["measured"], again["measured"]) == (True, False)
    assert (again["drifts"], again["worst"]) == (answer["drifts"], answer["worst"])


def _recorded(bundle: Path, **changes: object) -> None:
    """Give a bundle a record of one comparison."""
    drift = Drift("vae", "image", "64x64", 1e-6, 1e-6, 1e-4).to_dict() | changes
    source = Bundle(bundle).manifest.source.sha256
    (bundle / "quality.json").write_text(json.dumps({"source": source, "stage": "a test", "drifts": [drift]}))


@pytest.mark.parametrize(
    ("damage", "code", "problem"),
    [
        (lambda bundle: None, 2, "was never measured"),
        (lambda bundle: (bundle / "quality.json").write_text("{"), 2, "is damaged"),
        (lambda bundle: _recorded(bundle, relative=0.1), 1, "1 of 1 comparisons differ too much"),
        (lambda bundle: _flip(bundle / "weights" / "vae.safetensors"), 2, "vae.safetensors"),
    ],
)
def test_what_is_wrong_is_found_without_the_checkpoint(
    tiny_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], object],
    code: int,
    problem: str,
) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle", ignore=shutil.ignore_patterns("quality.json")))
    damage(bundle)
    assert main(["verify", str(bundle)]) == code
    assert problem in capsys.readouterr().err


def test_a_record_of_another_checkpoint_does_not_count(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    _recorded(bundle)
    record = json.loads((bundle / "quality.json").read_text()) | {"source": "0" * 64}
    (bundle / "quality.json").write_text(json.dumps(record))
    assert main(["verify", str(bundle)]) == 2
    assert "measured for another checkpoint" in capsys.readouterr().err


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def test_a_foreign_checkpoint_is_refused(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init_checkpoint("tiny-kontext", tmp_path / "other", seed=9)
    assert main(["verify", str(tiny_bundle), "--checkpoint", str(tmp_path / "other"), "--quiet"]) == 2
    assert "was not made from" in capsys.readouterr().err


def test_a_wrong_number_fails_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = init_checkpoint("tiny-kontext", tmp_path / "right", components=("text_encoder",))
    write_bundle(checkpoint, tmp_path / "bundle", find_recipe("fp32"), ("text_encoder",))
    weights = tmp_path / "right" / "text_encoder" / "model.safetensors"
    tensors = load_file(weights)
    tensors["text_projection.weight"] *= 1.001
    save_file(tensors, weights, {"format": "pt"})
    manifest = json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    manifest["source"]["sha256"] = Checkpoint.open(tmp_path / "right", partial=True).sha256()
    (tmp_path / "bundle" / "bundle.json").write_text(json.dumps(manifest))
    assert main(["verify", str(tmp_path / "bundle"), "--checkpoint", str(tmp_path / "right"), "--quiet"]) == 1
    assert "1 of 2 comparisons differ too much; worst: text_encoder pooled" in capsys.readouterr().err


@pytest.mark.slow
def test_bfloat16_stays_near_with_its_embedders_in_float32(tmp_path: Path) -> None:
    checkpoint = init_checkpoint("tiny-kontext", tmp_path / "tiny", components=("transformer",))
    manifest = write_bundle(checkpoint, tmp_path / "bundle", find_recipe("bf16"), ("denoiser",))
    weights = load_file(tmp_path / "bundle" / "weights" / "denoiser.safetensors")
    assert weights["denoiser.transformer_blocks.0.attn.to_qkv.weight.transposed"].dtype == torch.bfloat16
    assert weights["modulation.text_embedder.linear_1.weight"].dtype == torch.float32
    assert {spec.dtype for spec in manifest.graphs["denoiser"].inputs} == {"float32"}
    _check_half(Bundle(tmp_path / "bundle"), checkpoint)


@pytest.mark.slow
def test_float16_stays_near_also_in_t5(tmp_path: Path) -> None:
    components = ("text_encoder", "text_encoder_3")
    checkpoint = init_checkpoint("tiny-kontext", tmp_path / "tiny", components=components)
    manifest = write_bundle(checkpoint, tmp_path / "bundle", find_recipe("fp16"), components)
    assert {spec.dtype for spec in manifest.graphs["text_encoder_3"].outputs} == {"float32"}
    _check_half(Bundle(tmp_path / "bundle"), checkpoint)


def _check_half(bundle: Bundle, checkpoint: Checkpoint) -> None:
    drifts = verify(bundle, checkpoint)
    precision = find_recipe(bundle.manifest.recipe).other.precision
    assert all(drift.passed for drift in drifts)
    assert min(drift.relative for drift in drifts) > 1e-5  # half precision was really used
    assert {drift.tolerance for drift in drifts} == {TOLERANCE[precision]}
