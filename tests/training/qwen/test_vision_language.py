"""The vision-language stage: lessons without held-out pictures, a loss on answers alone, a folder that opens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from unipic2_edge.training.loop.optimizers import _is_hidden
from unipic2_edge.training.loop.trainer import Trainer
from unipic2_edge.training.qwen.lessons import draw_lessons, questions
from unipic2_edge.training.qwen.readers import CellReader, cell_targets, cells_of_tokens
from unipic2_edge.training.qwen.stage import VisionLanguageStage
from unipic2_edge.training.recipe import Recipe, load_recipe
from unipic2_edge.training.shapes.captions import held_out_text
from unipic2_edge.training.shapes.questions import held_out_scene
from unipic2_edge.training.shapes.scene import COLORS, SHAPES, Canvas, Object, Scene, sample_scene

CANVASES = [Canvas(64, 64), Canvas(96, 64), Canvas(64, 96)]


def _recipe(**changes: object) -> Recipe:
    settings = {"config": "tiny-metaquery", "batch_size": 4, "logging.samples_every": 0, "logging.every": 1} | changes
    return load_recipe("shapes-qwen", [f"{key}={value}" for key, value in settings.items()])


def test_lessons_show_nothing_that_is_held_out() -> None:
    kinds = set()
    for seed in range(60):
        lesson = draw_lessons(np.random.default_rng(seed), _recipe(), CANVASES)
        assert not any(held_out_scene(scene) for scene in lesson.scenes)
        assert len(lesson.conversations) == 4
        asked = {text for turns in lesson.conversations for text, _ in turns}
        told = [text.removeprefix("Generate an image: ") for text in asked if text.startswith("Generate")]
        assert not any(held_out_text(text) for text in told)
        assert len({(picture.shape) for picture in lesson.pictures}) <= 1
        assert lesson.editing or lesson.pictures
        assert not (lesson.system and lesson.editing)
        kinds.add((bool(lesson.pictures), lesson.editing, lesson.system, bool(told)))
    assert {(True, True, False, False), (True, False, True, False), (True, False, False, False)} <= kinds
    assert (False, True, False, True) in kinds


def test_every_picture_has_its_questions() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        turns = questions(rng, sample_scene(rng, CANVASES[0]), 2)
        assert len({text for text, _ in turns}) == 2


def test_cells_say_what_stands_where() -> None:
    ring = Object("ring", "blue", (2, 1), (0.0, 0.0), 12.0)
    cells = cell_targets([Scene(CANVASES[0], "white", (ring,))])
    assert cells.shape == (1, 9, 2)
    assert cells[0, 7].tolist() == [SHAPES.index("ring") + 1, list(COLORS).index("blue")]
    assert cells[0, :7, 0].unique().tolist() == [0]


def test_a_reader_of_what_it_is_told_finds_it() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(1)
    cells = cell_targets([sample_scene(rng, CANVASES[0]) for _ in range(64)])
    told = torch.nn.functional.one_hot(cells.clamp(min=0), 8).float().view(64, 9, 16)
    reader = CellReader(16, [(3, 3)])
    optimizer = torch.optim.Adam(reader.parameters(), lr=0.1)
    for _ in range(80):
        optimizer.zero_grad()
        loss = reader.loss(told, (3, 3), cells)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05


@pytest.mark.parametrize("grid", [(4, 4), (2, 2), (3, 2), (6, 4), (1, 1)])
def test_every_cell_lies_under_a_token(grid: tuple[int, int]) -> None:
    cells = cells_of_tokens(grid)
    assert len(cells) == grid[0] * grid[1]
    assert cells.unique().tolist() == list(range(9))


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("qwen.model.language_model.layers.0.self_attn.q_proj.weight", True),
        ("qwen.model.visual.blocks.1.mlp.up_proj.weight", True),
        ("conditioner.connector.layers.1.mlp.fc2.weight", True),
        ("transformer_blocks.3.attn2.to_q.weight", True),
        ("transformer_blocks.3.ff_context.net.2.weight", True),
        ("transformer_blocks.3.norm1.linear.weight", False),
        ("qwen.model.language_model.embed_tokens.weight", False),
        ("qwen.model.visual.merger.mlp.0.weight", False),
        ("conditioner.projector_1.weight", False),
        ("qwen.lm_head.weight", False),
    ],
)
def test_muon_takes_hidden_matrices(name: str, hidden: bool) -> None:
    assert _is_hidden(name) == hidden


def test_the_loss_is_that_of_the_answers_tokens(tmp_path: Path) -> None:
    stage = VisionLanguageStage(_recipe(), tmp_path)
    lesson = draw_lessons(np.random.default_rng(1), _recipe(), CANVASES)
    batch = stage._batch(lesson, torch.device("cpu"))
    with torch.no_grad():
        loss, _ = stage.model(batch)
        logits = stage.model.qwen(
            input_ids=batch.ids,
            pixel_values=batch.patches,
            image_grid_thw=torch.tensor([[1, *batch.grid]] * len(batch.ids)) if batch.grid else None,
            position_ids=batch.places[:, None].expand(3, *batch.ids.shape),
        ).logits
    wanted = batch.labels[:, 1:] != -100
    expected = torch.nn.functional.cross_entropy(logits[:, :-1][wanted], batch.ids[:, 1:][wanted])
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)


def test_it_learns_and_leaves_a_folder_that_transformers_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unipic2_edge.training.qwen.stage._EVALUATED", 10)
    recipe = _recipe(**{"schedule.steps": 12, "schedule.warmup": 2})
    stage = VisionLanguageStage(recipe, tmp_path)
    with torch.no_grad():
        before = _answer_loss(stage)
    scores = Trainer(recipe, stage, tmp_path, progress=False).run()
    with torch.no_grad():
        assert _answer_loss(stage) < 0.7 * before
    assert {"understanding", "understanding_small", "understanding_color"} <= set(scores)
    folder = tmp_path / "qwen2_5_vl"
    opened = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    theirs, ours = opened.state_dict(), stage.model.state_dict()
    assert all(torch.equal(value, ours[f"qwen.{name}"]) for name, value in theirs.items())
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<|im_end|>"
    assert not (folder / "reader.safetensors").exists()
    onward = VisionLanguageStage(_recipe(init=str(tmp_path)), tmp_path / "onward")
    assert all(torch.equal(value, onward.model.state_dict()[f"qwen.{name}"]) for name, value in theirs.items())
    with torch.no_grad():
        assert _answer_loss(onward) == pytest.approx(_answer_loss(stage), rel=1e-5)


def _answer_loss(stage: VisionLanguageStage) -> float:
    rng = np.random.default_rng(99)
    losses = [
        stage.model(stage._batch(draw_lessons(rng, stage.recipe, CANVASES), torch.device("cpu")))[0] for _ in range(4)
    ]
    return float(torch.stack(losses).mean())
