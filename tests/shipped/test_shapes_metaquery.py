"""The shipped MetaQuery model: what its card promises, its bundle against PyTorch, and that it really answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unipic2_edge.bench.compare import psnr
from unipic2_edge.bench.quality import PROMPT_SEED
from unipic2_edge.export.verify import verify
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.training.layout import METAQUERY
from unipic2_edge.training.metaquery.checkpoint import MetaqueryCheckpoint
from unipic2_edge.training.shapes.questions import evaluation_questions, score_answers
from unipic2_edge.training.shapes.render import render
from unipic2_edge.training.shapes.scene import Canvas

from .test_shapes_kontext import GOLDEN, LEAST_PSNR, _source

LEAST_SCORE = 0.65  # of 100 questions; 600 are in the card

#: Golden picture → how it is made.
MADE: dict[str, Callable[[Pipeline], Image.Image]] = {
    "words-generated": lambda p: p.generate("a red circle and a blue square on a white background", seed=5).images[0],
    "words-edited": lambda p: p.edit(_source(), "remove the cyan cross", seed=5).images[0],
}


@pytest.fixture(scope="module")
def pipeline(words_bundle: Path) -> Pipeline:
    return Pipeline.load(words_bundle)


def test_it_is_whole_and_small(words_checkpoint: Path) -> None:
    opened = MetaqueryCheckpoint.open(words_checkpoint)
    assert opened.variant == "metaquery" and all(opened.has(part) for part in METAQUERY.parts)
    assert sum(path.stat().st_size for path in words_checkpoint.rglob("*") if path.is_file()) <= 60e6
    card = (words_checkpoint / "README.md").read_text(encoding="utf-8")
    assert "64×64" in card and "## Scores" in card
    recipes = {path.stem for path in (words_checkpoint / "training").glob("*.toml")}
    assert recipes == {path.stem for path in (words_checkpoint / "training").glob("*.jsonl")} != set()


@pytest.mark.slow
def test_the_bundle_is_the_checkpoint(words_bundle: Path, words_checkpoint: Path) -> None:
    drifts = verify(Bundle(words_bundle), MetaqueryCheckpoint.open(words_checkpoint))
    assert max(drift.relative for drift in drifts) < 1e-4


@pytest.mark.slow
def test_it_answers(pipeline: Pipeline) -> None:
    questions = evaluation_questions(100, Canvas(64, 64), PROMPT_SEED)
    said = [pipeline.describe(Image.fromarray(render(asked.scene)), asked.text).text for asked in questions]
    assert score_answers(questions, said).mean >= LEAST_SCORE
    blind = [pipeline.describe(question=asked.text).text for asked in questions]
    assert score_answers(questions, blind).mean < LEAST_SCORE / 2  # it looks


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_golden_pictures(pipeline: Pipeline, name: str, request: pytest.FixtureRequest) -> None:
    made, path = MADE[name](pipeline), GOLDEN / f"{name}.png"
    if request.config.getoption("--update-golden"):
        made.save(path)
    assert psnr(np.asarray(made), np.asarray(Image.open(path))) >= LEAST_PSNR
