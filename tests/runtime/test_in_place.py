"""The cache that a session holds: a MetaQuery bundle on a GPU that is not there, word for word as on the processor."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.errors import RequestError, WorkError
from unipic2_edge.runtime.memory_plan import Need, plan_memory
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.runtime.placement import served_graphs
from unipic2_edge.runtime.tensorrt_session import TensorRTSession

from .fake_card import Gpu, install

LIMITS = {"windows": 16, "image_tokens": 256, "sequence": 1024, "past": 1024, "total": 2048, "selected": 64}
LIMITS |= {"batch": 4, "steps": 50, "tokens": 512, "context": 8, "height": 64, "width": 64, "h": 16, "w": 16}
ROOM = 1024


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    card = install(monkeypatch)
    card.limits = LIMITS
    return card


@pytest.fixture
def bundle(metaquery_bundle: Path, tmp_path: Path, gpu: Gpu) -> Bundle:
    """Built for the fake card."""
    shutil.copytree(metaquery_bundle, tmp_path / "bundle")
    made = Bundle(tmp_path / "bundle")
    gpu.build(made)
    return made


def _picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def test_gpus_take_the_graph_whose_cache_stands_still(bundle: Bundle) -> None:
    assert "language" not in served_graphs(bundle.manifest, gpu=True)
    assert "language_static" not in served_graphs(bundle.manifest, gpu=False)
    assert set(served_graphs(bundle.manifest, gpu=True)) | {"language"} == set(bundle.manifest.graphs)


def test_answers_and_pictures_are_the_processors(bundle: Bundle, metaquery_bundle: Path) -> None:
    ours, theirs = Pipeline.load(bundle.folder), Pipeline.load(metaquery_bundle, "cpu")
    assert ours.explain()[0].startswith("a card")
    for number, question in ((0, "what color is it?"), (0, "how many?"), (1, "why?"), (0, "what color is it?")):
        said = ours.describe(_picture(number), question, max_new_tokens=7).text
        assert said == theirs.describe(_picture(number), question, max_new_tokens=7).text
    options: dict[str, Any] = {"num_inference_steps": 2, "seed": 4, "negative_prompt": ""}
    for instruction in ("make it red", "make it blue"):
        made, expected = (each.edit(_picture(), instruction, **options) for each in (ours, theirs))
        np.testing.assert_allclose(made.latents, expected.latents, atol=1e-4)


def test_words_are_written_in_place_and_not_copied(bundle: Bundle, gpu: Gpu) -> None:
    pipeline = Pipeline.load(bundle.folder)
    answer = pipeline.describe(_picture(), "what color is it?", max_new_tokens=12)
    next(answer)
    session = pipeline.sessions["language_static"]
    assert isinstance(session, TensorRTSession) and session._held is not None
    placed, held = session._context.addresses, session._held.addresses
    assert placed["cache_key_0"] == placed["updated_key_0"] == held["cache_key_0"]
    before = gpu.cuda.calls.count("cudaMemcpyAsync")
    tokens = answer.tokens
    assert answer.text
    copies = gpu.cuda.calls.count("cudaMemcpyAsync") - before
    made = answer.tokens - tokens + (answer.finish_reason == "stop")
    names = len(session._asked.inputs) + len(session._asked.outputs) + 2  # and the head's
    assert copies <= made * names  # keys and values are in none of them
    pipeline.close()
    assert len(gpu.cuda.memory) == 1  # the arena, which all graphs share


def test_what_does_not_fit_the_cache_is_refused(bundle: Bundle) -> None:
    pipeline = Pipeline.load(bundle.folder)
    model = pipeline._qwen.reader.model
    embedded = np.zeros((1, ROOM, 128), np.float32)
    _, cache = model.prefill(embedded, np.tile(np.arange(ROOM), (3, 1)), model.empty())
    with pytest.raises(RequestError, match="1025 tokens do not fit the 1024"):
        model.prefill(embedded[:, :1], np.full((3, 1), ROOM), cache)


def test_an_older_sequence_is_put_back_and_a_closed_one_is_said(bundle: Bundle) -> None:
    pipeline = Pipeline.load(bundle.folder)
    model = pipeline._qwen.reader.model
    rng, places = np.random.default_rng(1), np.tile(np.arange(6), (3, 1))
    first, second = (rng.standard_normal((1, 6, 128)).astype(np.float32) for _ in range(2))
    expected, _ = model.prefill(first, places, model.empty())
    _, half = model.prefill(first[:, :4], places[:, :4], model.empty())
    kept = half.cut(4)
    model.prefill(second, places, model.empty())
    made, newest = model.prefill(first[:, 4:], places[:, 4:], kept)
    np.testing.assert_allclose(made, expected, atol=1e-5)
    with pytest.raises(RuntimeError, match="another sequence's"):
        half.cut(4)
    pipeline.sessions.close()
    with pytest.raises(WorkError, match="put away"):
        model.prefill(second[:, :1], places[:, :1], newest)


def test_the_head_stays_while_words_are_made() -> None:
    needs = [Need("denoiser", 6, 1), Need("language_static", 5, 1, "words"), Need("lm_head", 2, 0, "words")]
    plan = plan_memory(needs, 9, context=0)
    assert set(plan.swapped) >= {"denoiser", "language_static"}
    assert plan.peak_bytes <= 9
    with pytest.raises(RequestError, match="language_static alone needs 8"):
        plan_memory([Need(n.graph, n.weights * 10**9, n.activations * 10**9, n.group) for n in needs], 7 * 10**9, 0)
