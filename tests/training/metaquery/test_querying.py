"""Queries through a frozen language model: the same as all at once, the reference pipeline, and what training moves."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.errors import RecipeError
from unipic2_edge.training.layout import MODELS, TOKENIZERS
from unipic2_edge.training.loop.trainer import Trainer
from unipic2_edge.training.metaquery.alignment import TextTeacher
from unipic2_edge.training.metaquery.checkpoint import MetaqueryCheckpoint
from unipic2_edge.training.metaquery.pipeline import MetaqueryPipeline
from unipic2_edge.training.metaquery.querying import Querying, Rope
from unipic2_edge.training.metaquery.stage import MetaqueryStage
from unipic2_edge.training.qwen.model import embed, states
from unipic2_edge.training.qwen.sight import positions
from unipic2_edge.training.recipe import Recipe, load_recipe
from unipic2_edge.training.shapes.questions import DESCRIBE
from unipic2_edge.training.shapes.render import Picture, render
from unipic2_edge.training.shapes.scene import Canvas, sample_scene

TEXTS = ["a red circle", "two green squares on a black background", ""]


@pytest.fixture(scope="module")
def parts(tiny_metaquery: MetaqueryCheckpoint) -> tuple[Any, Any, Any]:
    return tiny_metaquery.load_qwen(), tiny_metaquery.chat(), tiny_metaquery.sight()


@pytest.fixture(scope="module")
def queries(tiny_metaquery: MetaqueryCheckpoint) -> torch.Tensor:
    return tiny_metaquery.load_meta_conditioner().meta_queries.detach()


def _pictures(count: int) -> list[Picture]:
    rng = np.random.default_rng(7)
    return [render(sample_scene(rng, Canvas(64, 64))) for _ in range(count)]


@torch.no_grad()
@pytest.mark.parametrize("rope", ["sequential", "mrope"])
@pytest.mark.parametrize("edit", [False, True])
def test_a_batch_is_what_each_row_is_alone_and_in_one_pass(
    rope: Rope, edit: bool, parts: tuple[Any, Any, Any], queries: torch.Tensor
) -> None:
    model, chat, sight = parts
    querying = Querying(model, chat, sight, rope)
    pictures = _pictures(3) if edit else None
    batch = querying(querying.prompts(TEXTS, pictures), queries)
    for row, text in enumerate(TEXTS):
        # One pass over prompt and queries together, no pads, no cache; positions made for the whole.
        patches, grid = sight.patches(pictures[row : row + 1], editing=True) if pictures else (None, None)
        said = text if edit else f"Generate an image: {text}"
        ids = torch.tensor([chat.prompt(said, sight.tokens(grid) if grid else 0)])
        first = int((ids[0] == chat.image_id).int().argmax())
        whole = torch.cat([embed(model, ids, patches, grid), queries[None]], dim=1)
        places = positions(whole.shape[1], first, grid if rope == "mrope" else None)
        expected = states(model, whole, places)[0, -len(queries) :]
        torch.testing.assert_close(batch[row], expected, atol=2e-5, rtol=1e-4)


def test_the_editing_prompt_is_the_picture_then_the_words(parts: tuple[Any, Any, Any]) -> None:
    querying = Querying(*parts)
    prompts = querying.prompts(["make the ring red"], _pictures(1))
    text = parts[1].tokenizer.decode(prompts.ids[0])
    assert text == (
        "<|im_start|>user\n<|vision_start|>" + "<|image_pad|>" * 4 + "<|vision_end|>make the ring red<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    text = parts[1].tokenizer.decode(querying.prompts(["a ring"]).ids[0])
    assert text == "<|im_start|>user\nGenerate an image: a ring<|im_end|>\n<|im_start|>assistant\n"


def test_gradients_reach_the_queries_and_nothing_frozen(parts: tuple[Any, Any, Any], queries: torch.Tensor) -> None:
    querying = Querying(*parts)
    asked = queries.clone().requires_grad_()
    querying(querying.prompts(TEXTS, _pictures(3)), asked).square().sum().backward()
    assert asked.grad is not None
    assert (asked.grad.abs().sum(1) > 0).all()
    assert all(parameter.grad is None for parameter in querying.parameters())
    assert not querying.train().qwen.training


def _noise(count: int) -> torch.Tensor:
    return torch.randn(count, 8, 16, 16, generator=torch.Generator().manual_seed(0))


def test_the_pipeline_hears_words_and_sees_pictures(tiny_metaquery: MetaqueryCheckpoint) -> None:
    pipeline = MetaqueryPipeline.load(tiny_metaquery)
    first, second = _pictures(2)

    def made(texts: list[str], pictures: list[Picture] | None = None, **options: float) -> torch.Tensor:
        settings: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0} | options
        return pipeline(texts, _noise(len(texts)), pictures, **settings)[1]

    both = made(["a red ring", "a blue ring"])
    assert not torch.allclose(both[0] - _noise(2)[0], both[1] - _noise(2)[1], atol=1e-3)
    torch.testing.assert_close(made(["a red ring"])[0], both[0], atol=1e-4, rtol=1e-4)
    edits = made(["a red ring"] * 2, [first, second])
    alone = made(["a red ring"], [first])
    torch.testing.assert_close(alone[0], edits[0], atol=1e-4, rtol=1e-4)
    plain = made(["a red ring"], guidance_scale=1.0)
    assert not torch.allclose(plain[0], both[0], atol=1e-3)
    assert isinstance(pipeline.describe(first, DESCRIBE, limit=4), str)


def test_the_language_model_sees_the_picture_that_is_edited(tiny_metaquery: MetaqueryCheckpoint) -> None:
    pipeline = MetaqueryPipeline.load(tiny_metaquery)
    context, pooled = pipeline.condition(["make it red"] * 2, _pictures(2))
    assert context.shape == (2, 8, 192)
    assert pooled.shape == (2, 192)
    assert not torch.allclose(context[0], context[1], atol=1e-3)


def _recipe(init: Path, **changes: object) -> Recipe:
    settings = {
        "config": "tiny-metaquery",
        "init": str(init),
        "batch_size": 3,
        "schedule.steps": 3,
        "schedule.warmup": 1,
        "alignment.steps": 0,
        "logging.samples_every": 0,
        "logging.every": 1,
    } | changes
    return load_recipe("shapes-metaquery", [f"{key}={value}" for key, value in settings.items()])


@pytest.fixture
def parts_folder(tiny_metaquery: MetaqueryCheckpoint, tmp_path: Path) -> Path:
    """What the recipe starts from: everything but a conditioner."""
    return Path(
        shutil.copytree(tiny_metaquery.folder, tmp_path / "parts", ignore=shutil.ignore_patterns("conditioner"))
    )


def test_training_moves_the_conditioner_and_leaves_the_rest_bitwise(
    parts_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unipic2_edge.training.metaquery.stage._EVALUATED", 6)
    monkeypatch.setattr("unipic2_edge.training.metaquery.stage._STEPS", 2)
    recipe = _recipe(parts_folder)
    stage = MetaqueryStage(recipe, tmp_path / "run")
    frozen = [stage.frozen.transformer, stage.frozen.vae, stage.querying]
    before = [parameter.clone() for module in frozen for parameter in module.parameters()]
    started = {name: value.clone() for name, value in stage.model.state_dict().items()}
    scores = Trainer(recipe, stage, tmp_path / "run", progress=False).run()
    assert set(scores) == {"generation", "editing"}
    assert all(
        torch.equal(was, now)
        for was, now in zip(before, [p for module in frozen for p in module.parameters()], strict=True)
    )
    assert all(
        not torch.equal(started[name], value) for name, value in stage.model.state_dict().items() if value.ndim > 1
    )
    made = MetaqueryCheckpoint.open(tmp_path / "run" / "checkpoint")
    for file in ("transformer/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "qwen2_5_vl/model"):
        kept, written = (load_file(folder / f"{file}.safetensors") for folder in (parts_folder, made.folder))
        assert all(torch.equal(kept[name], written[name]) for name in kept)
    assert made.load_meta_conditioner().meta_queries.shape == (8, 128)
    again = MetaqueryStage(_recipe(made.folder), tmp_path / "longer")
    assert torch.equal(again.model.state_dict()["conditioner.meta_queries"], made.load_meta_conditioner().meta_queries)


def test_it_begins_unheard(parts_folder: Path, tmp_path: Path) -> None:
    stage = MetaqueryStage(_recipe(parts_folder), tmp_path / "run")
    with torch.no_grad():
        context, pooled = stage.frozen.condition(TEXTS, None)
    assert float(context.abs().max()) == float(pooled.abs().max()) == 0.0
    queries: Any = stage.model.state_dict()["conditioner.meta_queries"]
    assert float(queries.std()) == pytest.approx(128**-0.5, rel=0.1)


def test_with_the_denoisers_text_encoders_it_begins_at_what_they_say(
    parts_folder: Path, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    for part in (*MODELS[2:], *TOKENIZERS):
        shutil.copytree(tiny_checkpoint.folder / part, parts_folder / part)
    stage = MetaqueryStage(_recipe(parts_folder), tmp_path / "run")
    with torch.no_grad():
        context, pooled = stage.frozen.condition(TEXTS, None)
        said, meant = tiny_checkpoint.load_conditioner()(tiny_checkpoint.tokenizers()(["a red circle", "two rings"]))
    assert float((context - context[0, 0]).abs().max()) == float((pooled - pooled[0]).abs().max()) == 0.0
    nearer = (pooled[0] - meant.mean(0)).norm() < meant.mean(0).norm()
    assert bool(nearer)
    assert bool((context[0, 0] - said.mean((0, 1))).norm() < said.mean((0, 1)).norm())
    Trainer(_recipe(parts_folder, **{"schedule.steps": 1}), stage, tmp_path / "run", progress=False)
    stage.finish(tmp_path / "run")
    made = MetaqueryCheckpoint.open(tmp_path / "run" / "checkpoint")
    assert not any((made.folder / part).exists() for part in (*MODELS[2:], *TOKENIZERS))


def test_alignment_is_how_far_from_what_the_text_encoders_say(tiny_checkpoint: Checkpoint) -> None:
    teacher = TextTeacher.of(tiny_checkpoint)
    assert teacher is not None and teacher.tokens == 33
    said, meant = teacher(TEXTS)
    assert float(teacher.loss(TEXTS, said, meant)) == 0.0
    average = teacher.mean_context.expand_as(said), teacher.mean_pooled.expand_as(meant)
    assert float(teacher.loss(TEXTS, *average)) > 1
    assert 0 < float(teacher.loss(TEXTS, said + 0.01, meant)) < 0.1


def test_alignment_needs_the_text_encoders_and_a_query_for_each_token(
    parts_folder: Path, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    aligned = _recipe(parts_folder, **{"alignment.steps": 1})
    with pytest.raises(RecipeError, match="no text encoders to align with"):
        MetaqueryStage(aligned, tmp_path / "run")
    for part in (*MODELS[2:], *TOKENIZERS):
        shutil.copytree(tiny_checkpoint.folder / part, parts_folder / part)
    with pytest.raises(RecipeError, match="8 queries cannot be aligned with 33 tokens"):
        MetaqueryStage(aligned, tmp_path / "run")


def test_alignment_comes_first_and_needs_no_denoiser(
    parts_folder: Path, tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in (*MODELS[2:], *TOKENIZERS):
        shutil.copytree(tiny_checkpoint.folder / part, parts_folder / part)
    monkeypatch.setattr(TextTeacher, "check", lambda self, queries: None)
    monkeypatch.setattr(TextTeacher, "loss", lambda self, texts, context, pooled: context.mean() + pooled.mean())
    recipe = _recipe(parts_folder, **{"alignment.steps": 1})
    stage = MetaqueryStage(recipe, tmp_path / "run")
    first, second = ({name for _, told in stage.losses(step, torch.device("cpu")) for name in told} for step in (0, 1))
    assert first == {"edit_alignment", "generate_alignment"}
    assert second == {"edit_loss", "generate_loss"}
