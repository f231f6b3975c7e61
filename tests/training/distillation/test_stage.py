"""The distillation stage under the real loop, on a tiny teacher."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.distillation.stage import DistillationStage
from unipic2_edge.training.errors import RecipeError
from unipic2_edge.training.loop.trainer import Trainer
from unipic2_edge.training.metaquery.checkpoint import MetaqueryCheckpoint
from unipic2_edge.training.recipe import Recipe, load_recipe


def _recipe(folder: Path, steps: int, **changes: object) -> Recipe:
    settings: dict[str, object] = {
        "init": str(folder),
        "schedule.steps": steps,
        "schedule.warmup": 1,
        "batch_size": 2,
        "mixed_precision": "no",
        "ema_decay": 0,
        "data.cached_pairs": 8,
        "data.sizes": "[[64, 64]]",
        "data.size_weights": "[1.0]",
        "distillation.steps": 2,
        "distillation.substeps": 1,
        "distillation.rollout_steps": 2,
        "distillation.evaluated": 6,
        "logging.every": 1,
        "logging.samples_every": 0,
        "logging.state_every": 0,
    } | {key.replace("__", "."): value for key, value in changes.items()}
    return load_recipe("shapes-kontext-4step", [f"{key}={value}" for key, value in settings.items()])


def _weights(stage: DistillationStage) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in stage.variants.state_dict().items()}


def _changed(before: dict[str, Tensor], stage: DistillationStage) -> set[str | None]:
    now = stage.variants.state_dict()
    buffers = {name for name, _ in stage.variants.named_buffers()}
    return {
        stage.variants.variant_of(name)
        for name, tensor in before.items()
        if name not in buffers and not torch.equal(tensor, now[name])
    }


@pytest.mark.parametrize("full", ["true", "false"])
def test_a_student_is_trained_scored_and_written_and_its_teacher_stays(
    tiny_checkpoint: Checkpoint, tmp_path: Path, full: str
) -> None:
    recipe = _recipe(tiny_checkpoint.folder, 2, distillation__full=full)
    stage = DistillationStage(recipe, tmp_path)
    before = _weights(stage)
    scores = Trainer(recipe, stage, tmp_path, progress=False).run()
    assert set(scores) == {"generation", "editing", "teacher_generation", "teacher_editing"}
    assert _changed(before, stage) == {"student"}
    logged = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert logged["loss"] == pytest.approx((logged["generate_loss"] + logged["edit_loss"]) / 2, rel=1e-3)
    made = Checkpoint.open(tmp_path / "checkpoint")
    for task in ("generate", "edit"):
        default = made.defaults()[task]
        assert (default["num_inference_steps"], default["guidance_scale"]) == (2, 1.0)
    assert made.load_scheduler().config["shift_terminal"] == pytest.approx(0.75)
    latents = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    sigmas, device = torch.tensor([0.7, 0.4]), torch.device("cpu")
    asked = stage._asked(stage._given(np.random.default_rng(0), 0, True, device)[1])
    reference = asked.condition.reference
    with torch.no_grad():
        said = asked.velocity("student")(latents, sigmas)
        plain = made.load_transformer()
        condition = asked.condition
        alone = plain(latents, condition.context, condition.pooled, sigmas * 1000, reference, return_dict=False)[0]
    assert torch.allclose(said, alone, atol=1e-4)
    assert not torch.allclose(said, asked.velocity(None)(latents, sigmas), atol=1e-4)


@pytest.mark.parametrize("full", ["true", "false"])
def test_cdm_moves_the_fake_every_step_and_the_student_every_second(
    tiny_checkpoint: Checkpoint, tmp_path: Path, full: str
) -> None:
    changes = {"distillation__method": "cdm", "distillation__full": full, "optimizer__weight_decay": 0.1}
    one = DistillationStage(_recipe(tiny_checkpoint.folder, 1, **changes), tmp_path / "one")
    before = _weights(one)
    Trainer(one.recipe, one, tmp_path / "one", progress=False).run()
    assert _changed(before, one) == {"fake"}
    two = DistillationStage(_recipe(tiny_checkpoint.folder, 2, **changes), tmp_path / "two")
    Trainer(two.recipe, two, tmp_path / "two", progress=False).run()
    assert _changed(before, two) == {"student", "fake"}
    logged = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    assert "dm" not in logged[0]
    assert {"fake_loss", "ca", "dm", "cdm"} <= set(logged[1])


def test_targets_tell_edits_the_datas_pictures_and_hold_generation_at_the_teacher(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    changes = {"distillation__method": "targets", "distillation__guidance": 1, "gradient_accumulation": 4}
    recipe = _recipe(tiny_checkpoint.folder, 1, distillation__full="true", data__edit_share=0.75, **changes)
    stage = DistillationStage(recipe, tmp_path)
    made = [(float(loss.detach()), said) for loss, said in stage.losses(0, torch.device("cpu"))]
    held = [loss for loss, said in made if "generate_loss" in said]
    assert held == [pytest.approx(0, abs=1e-5)]  # the student is still the teacher
    assert len(made) == 4
    assert all(loss > 0.1 for loss, said in made if "edit_loss" in said)
    before = _weights(stage)
    Trainer(recipe, stage, tmp_path, progress=False).run()
    assert _changed(before, stage) == {"student"}


def test_the_fake_follows_the_student_and_learns_at_its_own_rate(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    changes = {"distillation__method": "cdm", "distillation__fake_rate": 0.25, "distillation__fake_decay": 0.75}
    stage = DistillationStage(_recipe(tiny_checkpoint.folder, 1, **changes), tmp_path)
    student, fake = (stage.variants.parameters_of(name)[0] for name in ("student", "fake"))
    with torch.no_grad():
        student.add_(1.0)
    old = fake.clone()
    stage.after_step(0)
    assert torch.allclose(fake, old + 0.25, atol=1e-6)
    rates = {stage.variants.variant_of(name): stage.rate(name) for name, _ in stage.variants.named_parameters()}
    assert (rates["fake"], rates["student"]) == (0.25, 1.0)


def test_the_reference_is_in_all_that_is_asked(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    stage = DistillationStage(_recipe(tiny_checkpoint.folder, 1), tmp_path)
    condition = stage._given(np.random.default_rng(0), 0, True, torch.device("cpu"))[1]
    asked = stage._asked(condition)
    context, pooled = stage.teacher.conditioner(stage.teacher.tokenize(["", ""]))
    assert asked.condition is condition
    assert condition.reference is not None
    assert asked.negative.reference is condition.reference
    assert torch.allclose(asked.negative.context, context, atol=1e-6)
    assert torch.allclose(asked.negative.pooled, pooled, atol=1e-6)


def test_another_variant_is_refused(tiny_metaquery: MetaqueryCheckpoint, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no Kontext"):
        DistillationStage(_recipe(tiny_metaquery.folder, 1), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("distillation.steps=0", "of at least 1"),
        ("distillation.guidance=0.5", "at least 1"),
        ("distillation.led_share=2", "of at most 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("shapes-kontext-8step", [change])
