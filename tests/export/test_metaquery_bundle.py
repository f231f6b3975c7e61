"""A MetaQuery checkpoint's bundle computes what PyTorch computes: graphs, pictures, and answers word for word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unipic2_edge.engines.build import build_targets
from unipic2_edge.engines.engine_set import Options
from unipic2_edge.engines.sizes import default_sizes, profile_of
from unipic2_edge.export.builtin_recipes import find_recipe
from unipic2_edge.export.bundle_writer import write_bundle
from unipic2_edge.export.components import components_of
from unipic2_edge.export.quantization.planning import make_plans
from unipic2_edge.export.quantized_export import ExportOptions, export_bundle
from unipic2_edge.export.recipes import ComponentRecipe, LayerRule, Recipe
from unipic2_edge.export.verify import verify
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.errors import CheckpointError, RequestError
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.runtime.qwen.sampling import SamplingSettings
from unipic2_edge.training.metaquery.checkpoint import MetaqueryCheckpoint, open_checkpoint
from unipic2_edge.training.metaquery.pipeline import MetaqueryPipeline
from unipic2_edge.training.shapes.render import Picture, render
from unipic2_edge.training.shapes.scene import Canvas, sample_scene

TEXTS = ["make the circle blue", "add a ring"]


@pytest.fixture(scope="module")
def checkpoint(metaquery_checkpoint: Path) -> MetaqueryCheckpoint:
    opened = open_checkpoint(metaquery_checkpoint)
    assert isinstance(opened, MetaqueryCheckpoint)
    return opened


@pytest.fixture(scope="module")
def theirs(checkpoint: MetaqueryCheckpoint) -> MetaqueryPipeline:
    return MetaqueryPipeline.load(checkpoint)


@pytest.fixture(scope="module")
def ours(metaquery_bundle: Path) -> Pipeline:
    return Pipeline.load(metaquery_bundle, "cpu", 1)


def test_every_graph_is_within_a_ten_thousandth(metaquery_bundle: Path, checkpoint: MetaqueryCheckpoint) -> None:
    drifts = verify(Bundle(metaquery_bundle), checkpoint)
    assert {drift.component for drift in drifts} == set(components_of(checkpoint))
    assert {drift.case for drift in drifts} >= {"23 tokens in pieces of 9", "23 tokens token by token"}
    assert max(drift.relative for drift in drifts) < 1e-4


@pytest.mark.parametrize("task", ["generate", "edit"])
def test_the_same_noise_gives_the_same_latents(ours: Pipeline, theirs: MetaqueryPipeline, task: str) -> None:
    latents = np.random.default_rng(3).standard_normal((2, 8, 16, 16)).astype(np.float32)
    rng = np.random.default_rng(4)
    pictures = [render(sample_scene(rng, Canvas(64, 64))) for _ in TEXTS] if task == "edit" else None
    options = {"num_inference_steps": 3, "guidance_scale": 3.5}
    _, expected = theirs(TEXTS, torch.from_numpy(latents), pictures, **options)
    if pictures is None:
        made = ours.generate(TEXTS, latents=latents, height=64, width=64, **options)
    else:
        opened = [Image.fromarray(picture) for picture in pictures]
        made = ours.edit(opened, TEXTS, negative_prompt="", latents=latents, **options)
    difference = np.linalg.norm(made.latents - expected.numpy()) / np.linalg.norm(expected.numpy())
    assert difference < 1e-4


def test_one_picture_and_several_instructions(ours: Pipeline) -> None:
    picture = render(sample_scene(np.random.default_rng(5), Canvas(64, 64)))
    together = ours.edit(Image.fromarray(picture), TEXTS, seed=[1, 2], num_inference_steps=2)
    alone = ours.edit(Image.fromarray(picture), TEXTS[1], seed=2, num_inference_steps=2)
    np.testing.assert_allclose(together.latents[1], alone.latents[0], atol=1e-4)


def test_a_hundred_answers_token_for_token(metaquery_bundle: Path, theirs: MetaqueryPipeline) -> None:
    pipeline, rng = Pipeline.load(metaquery_bundle, "cpu", 1), np.random.default_rng(6)
    questions = ["what color is the circle?", "how many rings are there?", "describe the image."]
    for number in range(100):
        picture, question = render(sample_scene(rng, Canvas(64, 64))), questions[number % 3]
        ids = _generated(theirs, picture, question)
        made = pipeline._qwen.answer(question, [Image.fromarray(picture)], SamplingSettings(), len(ids) or 1)
        assert [*made._source] == ids


def _generated(theirs: MetaqueryPipeline, picture: Picture, question: str) -> list[int]:
    """transformers' own greedy answer, six tokens at most, without what ends it."""
    querying = theirs.conditioner.querying
    patches, (rows, columns) = querying.sight.patches([picture])
    prompt = querying.chat.prompt(question, querying.sight.tokens((rows, columns)), system=True)
    ids = torch.tensor([prompt])
    made = querying.qwen.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == querying.chat.image_id).long(),
        pixel_values=patches,
        image_grid_thw=torch.tensor([[1, rows, columns]]),
        max_new_tokens=6,
        do_sample=False,
    )
    stops = (querying.chat.end_id, querying.chat.pad_id)
    return [token for token in made[0, len(prompt) :].tolist() if token not in stops]


def test_the_bundle_compiles_for_rtx_and_the_processor(checkpoint: MetaqueryCheckpoint, tmp_path: Path) -> None:
    write_bundle(checkpoint, tmp_path / "bundle", find_recipe("fp16"), ("vision", "language", "lm_head", "connector"))
    bundle = Bundle(tmp_path / "bundle")
    built = build_targets(bundle, "rtx-40", Options(sizes=default_sizes(bundle.manifest)))
    assert {made.engine.spec.graph for made in built} == {"vision", "language_static", "lm_head", "connector"}


def test_bfloat16_answers_on_the_processor(checkpoint: MetaqueryCheckpoint, ours: Pipeline, tmp_path: Path) -> None:
    write_bundle(checkpoint, tmp_path / "bundle", find_recipe("bf16"), ("vision", "language", "lm_head"))
    build_targets(Bundle(tmp_path / "bundle"), "cpu")
    pipeline = Pipeline.load(tmp_path / "bundle", "cpu", 1)
    picture = Image.fromarray(render(sample_scene(np.random.default_rng(8), Canvas(64, 64))))
    first = pipeline.describe(picture, "what color is the circle?", max_new_tokens=1).text
    assert first == ours.describe(picture, "what color is the circle?", max_new_tokens=1).text
    again = pipeline.describe(picture, "how many rings are there?", max_new_tokens=3)  # after the kept prefix
    assert again.text is not None and again.tokens + (again.finish_reason == "stop") >= 1
    assert pipeline.placement is not None and "language" in pipeline.placement.choices


def test_profiles_begin_with_one_token_and_nothing_before(metaquery_bundle: Path) -> None:
    manifest = Bundle(metaquery_bundle).manifest
    sizes = default_sizes(manifest)
    grown, static = (profile_of(manifest, graph, sizes) for graph in ("language", "language_static"))
    assert grown["inputs_embeds"].min[:2] == static["inputs_embeds"].min[:2] == (1, 1)
    assert grown["past_key_0"].min[2] == 0
    assert "cache_key_0" not in static or static["cache_key_0"].min[2] == static["cache_key_0"].max[2]
    assert profile_of(manifest, "denoiser", sizes)["context"].max[1] == 8  # the meta queries


@pytest.mark.parametrize("recipe", ["int8-weight", "int4-weight"])
def test_built_in_recipes_reach_everything_that_tells_the_denoiser(
    checkpoint: MetaqueryCheckpoint, recipe: str, tmp_path: Path
) -> None:
    told = ("vision", "language", "lm_head", "connector")
    plans = make_plans(checkpoint, find_recipe(recipe), told, None, None)
    assert set(plans) == set(told)
    assert {layer.rsplit(".", 1)[-1] for layer in plans["language"].layers} >= {"qkv_proj", "o_proj", "down_proj"}
    assert list(plans["lm_head"].layers) == ["lm_head"]


def test_the_language_model_is_quantised_by_itself(checkpoint: MetaqueryCheckpoint, tmp_path: Path) -> None:
    rule = LayerRule(layers="language.*", weights="int8")
    recipe = Recipe(name="words-int8", components={"language": ComponentRecipe(rules=(rule,))})
    export_bundle(checkpoint, tmp_path / "bundle", recipe, ExportOptions(components=("vision", "language"), gate=False))
    bundle = Bundle(tmp_path / "bundle")
    assert bundle.manifest.components["language"].formats == ("int8",)
    drifts = verify(bundle, checkpoint)
    assert 1e-5 < max(drift.relative for drift in drifts) < 0.1


def test_components_are_those_of_the_variant(checkpoint: MetaqueryCheckpoint, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="metaquery checkpoint has no component 'text_encoder'"):
        write_bundle(checkpoint, tmp_path / "bundle", find_recipe("fp32"), ("text_encoder",))


def test_another_chat_template_is_refused(metaquery_checkpoint: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "checkpoint"
    shutil.copytree(metaquery_checkpoint, folder)
    (folder / "qwen2_5_vl" / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    with pytest.raises(CheckpointError, match="another chat template"):
        write_bundle(open_checkpoint(folder), tmp_path / "bundle", find_recipe("fp32"), ("connector",))
