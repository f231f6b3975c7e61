"""Scores: what is asked of the pipeline, and that only right pictures count."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unipic2_edge.bench.quality import (
    PROMPT_SEED,
    Settings,
    editing_quality,
    generation_quality,
    reconstruction_quality,
    score_record,
)
from unipic2_edge.runtime.bundle import Latents
from unipic2_edge.training.shapes.captions import TASKS, evaluation_captions, held_out_text
from unipic2_edge.training.shapes.edits import KINDS, evaluation_edits
from unipic2_edge.training.shapes.render import render

SETTINGS = Settings(prompts=36, steps=3, guidance=2.0, seed=100, width=64, height=64)


@dataclass
class _Result:
    images: list[Image.Image]


@dataclass
class _Editor:
    """Stands for a pipeline: hands back the ideal picture of each edit, or the source untouched."""

    ideal: bool
    calls: list[dict[str, object]] = field(default_factory=list)

    def edit(self, images: list[Image.Image], instructions: list[str], **options: object) -> _Result:
        start = sum(len(call["instructions"]) for call in self.calls)  # type: ignore[arg-type]
        self.calls.append({"instructions": instructions, **options})
        edits = evaluation_edits(SETTINGS.prompts, SETTINGS.canvas, PROMPT_SEED)[start : start + len(images)]
        assert [edit.text for edit in edits] == instructions
        for edit, image in zip(edits, images, strict=True):
            np.testing.assert_array_equal(np.asarray(image), render(edit.source))
        made = [Image.fromarray(render(edit.target)) for edit in edits]
        return _Result(made if self.ideal else images)

    def generate(self, prompts: list[str], **options: object) -> _Result:
        self.calls.append({"instructions": prompts, **options})
        return _Result([Image.new("RGB", (64, 64), (245, 245, 245)) for _ in prompts])


def test_ideal_edits_score_one_and_untouched_sources_nothing() -> None:
    assert editing_quality(_Editor(ideal=True), SETTINGS).score.mean == 1.0  # type: ignore[arg-type]
    assert editing_quality(_Editor(ideal=False), SETTINGS).score.mean == 0.0  # type: ignore[arg-type]


@pytest.mark.parametrize(("kept", "share"), [(1.0, 1.0), (0.0, 0.0)])
def test_reconstructions_are_right_where_nothing_is_lost(kept: float, share: float) -> None:
    class Codec:
        """`vae_encoder` and `vae_decoder` at once: pixels as latents, faded."""

        def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
            (value,) = inputs.values()
            return {"mean": value * kept, "image": value}

    pipeline: Any = SimpleNamespace(
        sessions={"vae_encoder": Codec(), "vae_decoder": Codec()},
        manifest=SimpleNamespace(latents=Latents(3, 1, 1, scaling_factor=2.0, shift_factor=0.1)),
    )
    scored = reconstruction_quality(pipeline, SETTINGS)
    assert (scored.mean, scored.total) == (share, {"scene": 36})


def test_an_empty_picture_answers_no_caption() -> None:
    assert generation_quality(_Editor(ideal=True), SETTINGS).score.mean == 0.0  # type: ignore[arg-type]


def test_every_picture_has_a_seed_of_its_own_and_the_settings_asked_for() -> None:
    pipeline = _Editor(ideal=True)
    made = generation_quality(pipeline, SETTINGS)  # type: ignore[arg-type]
    seeds = [seed for call in pipeline.calls for seed in call["seed"]]  # type: ignore[attr-defined]
    assert seeds == list(range(100, 136))
    assert {(call["num_inference_steps"], call["guidance_scale"], call["width"]) for call in pipeline.calls} == {
        (3, 2.0, 64)
    }
    assert len(made.pictures) == len(made.verdicts) == 36


def test_prompts_are_held_out_and_all_tasks_are_asked() -> None:
    made = generation_quality(_Editor(ideal=True), SETTINGS)  # type: ignore[arg-type]
    assert all(held_out_text(caption.text) for caption in made.captions)
    assert made.captions == evaluation_captions(36, SETTINGS.canvas, PROMPT_SEED)
    assert made.score.total == dict.fromkeys(TASKS, 6)


def test_a_score_record_has_an_interval_for_each_task() -> None:
    record = score_record(editing_quality(_Editor(ideal=True), SETTINGS).score)  # type: ignore[arg-type]
    assert (record["mean"], record["right"], record["total"]) == (1.0, 36, 36)
    tasks = record["tasks"]
    assert list(tasks) == list(KINDS)  # type: ignore[call-overload]
    low, high = tasks["add"]["interval_95"]  # type: ignore[index]
    assert low == pytest.approx(0.6097, abs=1e-4)  # 6 of 6
    assert high == 1.0
