"""The joint stage: the denoiser learns with the conditioner, and what is frozen moves by no bit, in any stage."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import nn

from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.denoiser import DenoiserStage
from unipic2_edge.training.errors import RecipeError
from unipic2_edge.training.loop.trainer import Trainer
from unipic2_edge.training.metaquery.checkpoint import MetaqueryCheckpoint
from unipic2_edge.training.metaquery.joint import JointStage
from unipic2_edge.training.recipe import Recipe, load_recipe


def _recipe(name: str, config: str, init: Path, *changes: str) -> Recipe:
    settings = [f"config={config}", f"init={init}", "batch_size=2", "schedule.steps=2", "schedule.warmup=1"]
    settings += ["logging.samples_every=0", "logging.every=1", "data.cached_pairs=8", "data.sizes=[[64,64]]"]
    return load_recipe(name, [*settings, "data.size_weights=[1]", *changes])


def _copies(*modules: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for module in modules for parameter in module.parameters()]


def _same(before: list[torch.Tensor], *modules: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(before, _copies(*modules), strict=True))


_HALF = ("mixed_precision=bf16", "frozen_dtype=bfloat16", "gradient_checkpointing=true")


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    """accelerate keeps one precision a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("changes", [(), _HALF], ids=["float32", "bfloat16"])
def test_joint_training_moves_both_and_leaves_the_rest_bitwise(
    changes: tuple[str, ...], tiny_metaquery: MetaqueryCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unipic2_edge.training.metaquery.stage._EVALUATED", 6)
    monkeypatch.setattr("unipic2_edge.training.metaquery.stage._STEPS", 2)
    recipe = _recipe("shapes-metaquery-joint", "tiny-metaquery", tiny_metaquery.folder, *changes)
    stage = JointStage(recipe, tmp_path / "run")
    frozen = (stage.frozen.vae, stage.querying.qwen)
    before, trained = _copies(*frozen), {name: value.clone() for name, value in stage.model.state_dict().items()}
    assert all(not parameter.requires_grad for module in frozen for parameter in module.parameters())
    scores = Trainer(recipe, stage, tmp_path / "run", progress=False).run()
    assert set(scores) == {"generation", "editing"}
    assert _same(before, *frozen)
    moved = {name for name, value in stage.model.state_dict().items() if not torch.equal(trained[name], value)}
    assert any(name.startswith("conditioner.conditioner.meta_queries") for name in moved)
    assert sum(name.startswith("transformer.transformer_blocks") for name in moved) > 20
    made = MetaqueryCheckpoint.open(tmp_path / "run" / "checkpoint")
    for file in ("vae/diffusion_pytorch_model", "qwen2_5_vl/model"):
        kept, written = (load_file(folder / f"{file}.safetensors") for folder in (tiny_metaquery.folder, made.folder))
        assert all(torch.equal(kept[name], written[name]) for name in kept)
    old, new = tiny_metaquery.load_transformer().state_dict(), made.load_transformer().state_dict()
    assert any(not torch.equal(old[name], new[name]) for name in old)
    queries = made.load_meta_conditioner().meta_queries
    assert not torch.equal(queries, tiny_metaquery.load_meta_conditioner().meta_queries)


def test_the_denoiser_stage_leaves_encoders_bitwise(
    tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unipic2_edge.training.denoiser._EVALUATED", 6)
    monkeypatch.setattr("unipic2_edge.training.denoiser._STEPS", 2)
    recipe = _recipe("shapes-kontext", "tiny-kontext", tiny_checkpoint.folder)
    stage = DenoiserStage(recipe, tmp_path / "run")
    before, moving = _copies(stage.vae, stage.conditioner), _copies(stage.model)
    Trainer(recipe, stage, tmp_path / "run", progress=False).run()
    assert _same(before, stage.vae, stage.conditioner)
    assert not _same(moving, stage.model)


def test_it_needs_a_conditioner_and_no_alignment(tiny_metaquery: MetaqueryCheckpoint, tmp_path: Path) -> None:
    def stage(init: Path, *changes: str) -> JointStage:
        return JointStage(_recipe("shapes-metaquery-joint", "tiny-metaquery", init, *changes), tmp_path / "run")

    with pytest.raises(RecipeError, match="alignment is for a frozen denoiser"):
        stage(tiny_metaquery.folder, "alignment.steps=3")
    parts = tmp_path / "parts"
    shutil.copytree(tiny_metaquery.folder, parts, ignore=shutil.ignore_patterns("conditioner"))
    with pytest.raises(RecipeError, match="no conditioner to go on from"):
        stage(parts)
