"""The shipped few-step students: what their cards promise, and that few steps without guidance make right pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unipic2_edge.export.builtin_recipes import find_recipe
from unipic2_edge.export.bundle_writer import write_bundle
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.shapes.edits import evaluation_edits
from unipic2_edge.training.shapes.render import render
from unipic2_edge.training.shapes.scene import Canvas
from unipic2_edge.training.shapes.scores import score_edits

LEAST_SCORE = 0.45  # of 48 edits; 600 are in the card


@pytest.fixture(scope="module", params=[8, 4])
def steps(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def student(pytestconfig: pytest.Config, steps: int) -> Checkpoint:
    return Checkpoint.open(pytestconfig.rootpath / "training" / "checkpoints" / f"shapes-kontext-{steps}step")


@pytest.fixture(scope="module")
def pipeline(student: Checkpoint, made_once: Callable[[str, Callable[[Path], object]], Path]) -> Pipeline:
    return Pipeline.load(
        made_once(student.folder.name, lambda folder: write_bundle(student, folder, find_recipe("fp32")))
    )


def test_it_is_whole_and_small_and_its_frozen_parts_are_the_teachers(student: Checkpoint, checkpoint: Path) -> None:
    assert sum(path.stat().st_size for path in student.folder.rglob("*") if path.is_file()) <= 60e6
    card = (student.folder / "README.md").read_text(encoding="utf-8")
    assert "64×64" in card and "## Scores" in card
    for path in sorted(checkpoint.rglob("*.safetensors")):
        same = path.read_bytes() == (student.folder / path.relative_to(checkpoint)).read_bytes()
        assert same == (path.parent.name != "transformer")


def test_its_recipes_and_logs_stand_beside_its_card(student: Checkpoint) -> None:
    recipes = {path.stem for path in (student.folder / "training").glob("*.toml")}
    assert recipes == {path.stem for path in (student.folder / "training").glob("*.jsonl")} != set()


@pytest.mark.slow
def test_few_steps_without_guidance_edit(pipeline: Pipeline, steps: int) -> None:
    edits = evaluation_edits(48, Canvas(64, 64), seed=31)
    sources = [render(edit.source) for edit in edits]
    made = [pipeline.edit(Image.fromarray(source), edit.text) for source, edit in zip(sources, edits, strict=True)]
    assert all(len(result.step_seconds) == steps for result in made)
    right = score_edits(edits, sources, [np.asarray(result.images[0]) for result in made])[0].mean
    assert right >= LEAST_SCORE
