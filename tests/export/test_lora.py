"""`export --lora`: the bundle is that of a checkpoint whose weights were merged by peft, and says what is in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

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


def _export(checkpoint: Path, bundle: Path, *words: str) -> int:
    return main(["export", str(checkpoint), str(bundle), "--components", "denoiser", "--quiet", *words])


def test_the_bundle_is_that_of_a_merged_checkpoint(
    tiny_checkpoint: Path, lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _export(tiny_checkpoint, tmp_path / "made", "--lora", f"{lora}:0.5", "--verify") == 0
    assert _export(tmp_path / "merged", tmp_path / "expected") == 0
    assert _export(tiny_checkpoint, tmp_path / "plain") == 0
    made, expected, plain = (
        load_file(tmp_path / name / "weights" / "denoiser.safetensors") for name in ("made", "expected", "plain")
    )
    assert set(made) == set(expected)
    assert max(float((made[name] - expected[name]).abs().max()) for name in made) < 1e-6
    fused = [name for name in made if "to_qkv" in name]
    assert fused
    assert all(not torch.allclose(made[name], plain[name], atol=1e-4) for name in fused)

    sources = {name: Bundle(tmp_path / name).manifest.source for name in ("made", "expected", "plain")}
    assert sources["made"].name == f"{tiny_checkpoint.name} + style:0.5"
    assert len({source.sha256 for source in sources.values()}) == 3
    (merged,) = json.loads((tmp_path / "made" / "recipe.json").read_text())["loras"]
    assert (merged["name"], merged["scale"]) == ("adapter_model.safetensors", 0.5)

    verify = ["verify", str(tmp_path / "made"), "--checkpoint", str(tiny_checkpoint), "--quiet"]
    assert main([*verify, "--lora", f"{lora}:0.5"]) == 0
    assert main([*verify, "--lora", f"{lora}:0.6"]) == 2
    assert "with the same --lora" in capsys.readouterr().err


def test_it_needs_the_denoiser(tiny_checkpoint: Path, lora: Path, tmp_path: Path) -> None:
    words = ["export", str(tiny_checkpoint), str(tmp_path / "made"), "--components", "vae", "--lora", str(lora)]
    assert main(words) == 2
    assert main(["export", str(tiny_checkpoint), str(tmp_path / "made"), "--lora", "absent.safetensors"]) == 2
    assert not (tmp_path / "made").exists()
