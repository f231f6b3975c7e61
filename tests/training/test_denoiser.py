"""The denoiser stage: LoRAs end merged and as a file, checkpointing changes no gradient, SD3.5 loads by key."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel

from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.denoiser import DenoiserStage
from unipic2_edge.training.errors import RecipeError
from unipic2_edge.training.flow import Condition, velocity_loss
from unipic2_edge.training.loop.trainer import Trainer
from unipic2_edge.training.recipe import Flow, Recipe, load_recipe

CPU = torch.device("cpu")


def _recipe(checkpoint: Checkpoint, *changes: str) -> Recipe:
    settings = ["config=tiny-kontext", "batch_size=2", "data.cached_pairs=8", "schedule.steps=2", "schedule.warmup=1"]
    quiet = ["logging.every=1", "logging.samples_every=0", "logging.state_every=0", "optimizer.name=adamw"]
    return load_recipe("shapes-kontext", [f"init={checkpoint.folder}", *settings, *quiet, *changes])


def _gradients(stage: DenoiserStage) -> dict[str, torch.Tensor]:
    for loss, _ in stage.losses(0, CPU):
        loss.backward()
    named: Any = stage.model.named_parameters()
    return {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}


@pytest.mark.parametrize("lora", [[], ["lora.rank=4"]])
def test_gradient_checkpointing_changes_no_gradient(
    lora: list[str], tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    found = [
        _gradients(DenoiserStage(_recipe(tiny_checkpoint, f"gradient_checkpointing={again}", *lora), tmp_path))
        for again in ("false", "true")
    ]
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert all((".lora_" in name) == bool(lora) for name in found[0])


@pytest.mark.slow
def test_a_lora_ends_merged_and_as_a_file_that_gives_the_same(
    tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unipic2_edge.training.denoiser._EVALUATED", 6)
    recipe = _recipe(tiny_checkpoint, "lora.rank=4", "lora.alpha=6", "ema_decay=0", "optimizer.lr=0.05")
    Trainer(recipe, DenoiserStage(recipe, tmp_path), tmp_path, progress=False).run()
    before = tiny_checkpoint.load_transformer().state_dict()
    merged = Checkpoint.open(tmp_path / "checkpoint").load_transformer().state_dict()
    again = tiny_checkpoint.with_loras([(tmp_path / "lora.safetensors", 1.0)]).load_transformer().state_dict()
    assert all(torch.allclose(weight, again[name], atol=1e-6) for name, weight in merged.items())
    ends = tuple(f".{target}.weight" for target in (recipe.lora.targets if recipe.lora else ()))
    changed = {name for name, weight in merged.items() if not torch.equal(weight, before[name])}
    assert all(name.endswith(ends) for name in changed)
    first = {name for name in merged if name.startswith("transformer_blocks.0.") and name.endswith(ends)}
    assert len(first) == 12  # its second attention's too
    assert first <= changed  # of the last block's context some have no effect


def test_weights_of_sd35_load_by_key_and_none_is_new(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = tmp_path / "sd35"
    shutil.copytree(tiny_checkpoint.folder, folder, ignore=shutil.ignore_patterns("transformer"))
    torch.manual_seed(1)
    config = {name: value for name, value in tiny_checkpoint.config("transformer").items() if name[0] != "_"}
    theirs = SD3Transformer2DModel(**config)
    theirs.save_pretrained(folder / "transformer")
    stage = DenoiserStage(_recipe(Checkpoint.open(folder)), tmp_path / "run")
    ours = stage.model.state_dict()
    assert ours.keys() == theirs.state_dict().keys()
    assert all(torch.equal(weight, ours[name]) for name, weight in theirs.state_dict().items())
    latents = torch.randn(2, 8, 16, 16)
    condition = Condition(torch.randn(2, 33, 192), torch.randn(2, 192), None)
    losses = [
        velocity_loss(model, Flow(), latents, condition, torch.Generator().manual_seed(0))
        for model in (stage.model.eval(), _Plain(theirs.eval()))
    ]
    assert torch.allclose(*losses)


class _Plain(torch.nn.Module):
    """diffusers' denoiser, which knows no reference."""

    def __init__(self, model: SD3Transformer2DModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, noisy: Any, context: Any, pooled: Any, times: Any, reference: None, return_dict: bool) -> Any:
        return self.model(noisy, context, pooled, times, return_dict=return_dict)


def test_what_only_this_stage_can_do_is_refused_elsewhere() -> None:
    with pytest.raises(RecipeError, match="lora is for the stage denoiser"):
        load_recipe("shapes-metaquery", ["lora.rank=4"])
    with pytest.raises(RecipeError, match=r'data\.kind = "shards" is for the stages denoiser and distillation'):
        load_recipe("shapes-metaquery", ["data.kind=shards", 'data.sources=[{kind="captions", path="a.tar"}]'])
