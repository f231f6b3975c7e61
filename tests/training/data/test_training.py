"""The denoiser stage trains from shards, goes on bit for bit, and looks at the data's own first records."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from unipic2_edge.training import denoiser
from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.denoiser import DenoiserStage
from unipic2_edge.training.distillation.stage import DistillationStage
from unipic2_edge.training.errors import InterruptedWorkError
from unipic2_edge.training.loop.trainer import Trainer
from unipic2_edge.training.recipe import Recipe

MakeRecipe = Callable[..., Recipe]
SUFFIXES = {"webdataset": ".tar", "parquet": ".parquet"}


def _recipe(make_recipe: MakeRecipe, shards: Path, checkpoint: Checkpoint, form: str, **changes: object) -> Recipe:
    sources = [(kind, shards / form / f"{kind}-*{SUFFIXES[form]}") for kind in ("captions", "edits")]
    settings = {
        "init": checkpoint.folder,
        "gradient_accumulation": 2,
        "schedule.warmup": 1,
        "logging.every": 1,
        "logging.samples_every": 0,
        "logging.state_every": 0,
        "data.shards.cache": "all",
    }
    return make_recipe(*sources, **{**settings, **changes})


class _Stopped(DenoiserStage):
    """Gets SIGTERM in its third step."""

    def losses(self, step: int, device: torch.device) -> Iterator[tuple[Tensor, dict[str, float]]]:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        yield from super().losses(step, device)


def _weights(output: Path) -> dict[str, Tensor]:
    return dict(Checkpoint.open(output / "checkpoint").load_transformer().state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("form", SUFFIXES)
def test_it_trains_and_goes_on_as_if_never_stopped(
    form: str, make_recipe: MakeRecipe, shards: Path, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    recipe = _recipe(make_recipe, shards, tiny_checkpoint, form)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    scores = Trainer(recipe, DenoiserStage(recipe, whole), whole, progress=False).run()
    assert set(scores) == {"generate_probe_loss", "edit_probe_loss"}
    assert all(np.isfinite(score) for score in scores.values())
    with pytest.raises(InterruptedWorkError):
        Trainer(recipe, _Stopped(recipe, parts), parts, progress=False).run()
    Trainer(recipe, DenoiserStage(recipe, parts), parts, progress=False).run()
    logs = [[json.loads(line) for line in (each / "log.jsonl").read_text().splitlines()] for each in (whole, parts)]
    losses = [{entry["step"]: entry["loss"] for entry in log if "loss" in entry} for log in logs]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4
    before, expected, found = tiny_checkpoint.load_transformer().state_dict(), _weights(whole), _weights(parts)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert not torch.equal(expected["proj_out.weight"], before["proj_out.weight"])
    with Image.open(whole / "samples" / "step-0000004.png") as grid:
        assert grid.width > grid.height  # six columns, three for each of eight records


@pytest.mark.slow
def test_the_shapes_world_judges_what_was_trained_on_its_shards(
    make_recipe: MakeRecipe,
    shards: Path,
    tiny_checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(denoiser, "_EVALUATED", 6)
    changes = {"data.shards.judge": "shapes", "schedule.steps": 1}
    recipe = _recipe(make_recipe, shards, tiny_checkpoint, "webdataset", **changes)
    scores = Trainer(recipe, DenoiserStage(recipe, tmp_path / "run"), tmp_path / "run", progress=False).run()
    assert set(scores) == {"generation", "editing"}


@pytest.mark.parametrize("method", ["trajectory", "targets"])
def test_a_student_is_told_what_the_shards_say(
    make_recipe: MakeRecipe, shards: Path, tiny_checkpoint: Checkpoint, tmp_path: Path, method: str
) -> None:
    changes = {
        "stage": "distillation",
        "batch_size": 2,
        "schedule.steps": 2,
        "distillation.method": method,
        "distillation.guidance": 1.0 if method == "targets" else 3.5,
        "distillation.full": "true",
        "distillation.steps": 2,
        "distillation.substeps": 1,
        "data.shards.cache": "none",
    }
    recipe = _recipe(make_recipe, shards, tiny_checkpoint, "webdataset", **changes)
    scores = Trainer(recipe, DistillationStage(recipe, tmp_path / "run"), tmp_path / "run", progress=False).run()
    assert set(scores) == {"generate_probe_loss", "edit_probe_loss"}
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(np.isfinite(entry["loss"]) for entry in logged if "loss" in entry)
    with Image.open(tmp_path / "run" / "samples" / "step-0000002.png") as grid:
        assert grid.width > grid.height  # six columns, three for each of the records
