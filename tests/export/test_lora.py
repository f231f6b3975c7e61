"""`export --lora`: the bundle is that of a checkpoint whose weights were merged by peft, and says what is in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from unipic2_edge.export.components import graphs_of
from unipic2_edge.export.portions import tensors_of
from unipic2_edge.export.verify import verify as compare
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.cli import main
from unipic2_edge.training.checkpoint import Checkpoint, save_checkpoint

LAYERS = ["to_q", "to_k", "to_v", "add_k_proj", "to_out.0", "ff.net.2", "norm1.linear", "pos_embed.proj", "proj_out"]


@pytest.fixture
def lora(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A LoRA as peft saves it, and beside it a checkpoint that peft merged it into, at half its strength."""
    base = Checkpoint.open(tiny_checkpoint)
    tuned = get_peft_model(base.load_transformer(), LoraConfig(r=4, lora_alpha=8, target_modules=LAYERS))
    generator = torch.Generator().manual_seed(5)
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    tuned.save_pretrained(tmp_path / "style")
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data *= 0.5
    save_checkpoint(tmp_path / "merged", base, transformer=tuned.merge_and_unload())
    return tmp_path / "style"


def test_every_portion_is_that_of_a_merged_checkpoint(tiny_checkpoint: Path, lora: Path, tmp_path: Path) -> None:
    """What the weights file is written from, in both graphs: the fused query, key and value too."""
    base = Checkpoint.open(tiny_checkpoint)
    made, expected, plain = (
        {
            f"{spec.name}.{stage.path}.{portion}.{name}": tensor
            for spec in graphs_of(checkpoint, "denoiser", torch.float32)
            for stage in spec.stages
            for portion, load in stage.loads.items()
            for name, tensor in tensors_of(load()).items()
        }
        for checkpoint in (base.with_loras([(lora, 0.5)]), Checkpoint.open(tmp_path / "merged", partial=True), base)
    )
    assert set(made) == set(expected)
    assert max(float((made[name] - expected[name]).abs().max()) for name in made) < 1e-6
    for layer in ("to_qkv", "to_added_qkv", "norm1.linear", "patch_embedder", "proj_out"):
        changed = [name for name in made if layer in name and name.endswith("weight")]
        assert changed, layer
        assert all(not torch.allclose(made[name], plain[name], atol=1e-4) for name in changed), layer


@pytest.mark.slow
def test_the_bundle_computes_what_a_merged_checkpoint_does(
    tiny_checkpoint: Path, lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(tiny_checkpoint), str(tmp_path / "made"), "--components", "denoiser", "--quiet"]
    assert main([*words, "--lora", f"{lora}:0.5"]) == 0
    bundle, merged = Bundle(tmp_path / "made"), Checkpoint.open(tmp_path / "merged", partial=True)
    assert max(drift.relative for drift in compare(bundle, merged)) < 1e-5
    assert max(drift.relative for drift in compare(bundle, Checkpoint.open(tiny_checkpoint))) > 1e-3

    source = bundle.manifest.source
    assert source.name == f"{tiny_checkpoint.name} + style:0.5"
    assert source.sha256 not in (merged.sha256(), Checkpoint.open(tiny_checkpoint).sha256())
    (record,) = json.loads((tmp_path / "made" / "recipe.json").read_text())["loras"]
    assert (record["name"], record["scale"]) == ("style", 0.5)

    verify = ["verify", str(tmp_path / "made"), "--checkpoint", str(tiny_checkpoint), "--quiet"]
    assert main([*verify, "--lora", f"{lora}:0.5"]) == 0
    assert main([*verify, "--lora", f"{lora}:0.6"]) == 2
    assert "with the same --lora" in capsys.readouterr().err


def test_it_needs_the_denoiser(tiny_checkpoint: Path, lora: Path, tmp_path: Path) -> None:
    words = ["export", str(tiny_checkpoint), str(tmp_path / "made"), "--components", "vae", "--lora", str(lora)]
    assert main(words) == 2
    assert main(["export", str(tiny_checkpoint), str(tmp_path / "made"), "--lora", "absent.safetensors"]) == 2
    assert not (tmp_path / "made").exists()
