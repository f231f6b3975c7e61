"""transformers' detectors and CLIP behind GenEval, tiny and with random weights: what goes in, what comes out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unipic2_edge.training.errors import RecipeError
from unipic2_edge.training.rewards.detection import TransformersDetector, cropped, device_of
from unipic2_edge.training.rewards.geneval import GenevalReward
from unipic2_edge.training.rewards.geneval_metadata import COLORS
from unipic2_edge.training.rewards.geneval_rules import Found
from unipic2_edge.training.rewards.registry import Tables, make_reward
from unipic2_edge.training.rewards.reward import Asked
from unipic2_edge.training.rewards.settings import Geneval

from .tiny_models import tiny_boxes, tiny_clip, tiny_segmenter

PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "segmenter": tiny_segmenter(folder / "m"),
        "boxes": tiny_boxes(folder / "d"),
        "clip": tiny_clip(folder / "c"),
    }


def test_a_segmenter_finds_masks_with_their_boxes(models: dict[str, Path]) -> None:
    detector = TransformersDetector(str(models["segmenter"]), "cpu", batch=2)
    assert {"computer mouse", "car"} <= detector.names  # COCO's mouse, as GenEval calls it
    found = detector.find([PICTURE] * 3, 0.0)
    assert len(found) == 3
    assert found[0]
    for thing in found[0]:
        assert thing.mask is not None
        assert thing.mask.shape == PICTURE.shape[:2]
        down, across = np.nonzero(thing.mask)
        assert thing.box == (across.min(), down.min(), across.max() + 1, down.max() + 1)
        assert 0 <= thing.score <= 1
        assert thing.name in detector.names
    assert detector.find([PICTURE], 1.0) == [[]]


def test_masks_become_boxes_and_names(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    detector = TransformersDetector(str(models["segmenter"]), "cpu")
    plane = torch.zeros(1, 48, 64)
    plane[0, 10:20, 30:50] = 1
    made = [{"segmentation": plane, "segments_info": [{"label_id": 1, "score": 0.7, "id": 0}]}]
    asked: dict[str, Any] = {}

    def post_process(outputs: Any, **options: Any) -> list[Any]:
        asked.update(options)
        return made

    monkeypatch.setattr(detector.processor, "post_process_instance_segmentation", post_process)
    (thing,) = detector.find([PICTURE], 0.25)[0]
    assert (thing.name, thing.box, thing.score) == ("computer mouse", (30.0, 10.0, 50.0, 20.0), 0.7)
    assert asked["target_sizes"] == [(48, 64)]
    assert (asked["threshold"], asked["return_binary_maps"]) == (0.25, True)


def test_a_detector_of_boxes_has_no_masks(models: dict[str, Path]) -> None:
    found = TransformersDetector(str(models["boxes"]), "cpu").find([PICTURE], 0.0)
    assert found[0]
    assert all(thing.mask is None and len(thing.box) == 4 for thing in found[0])


def test_crops_are_gray_where_the_mask_is_not() -> None:
    mask = np.zeros((48, 64), bool)
    mask[10:12, 20:24] = True
    shown = np.asarray(cropped(PICTURE, Found("car", 1, (19.0, 10.0, 25.0, 12.0), mask)))
    assert shown.shape == (2, 6, 3)
    np.testing.assert_array_equal(shown[:, 1:5], PICTURE[10:12, 20:24])
    assert (shown[:, [0, 5]] == 0x99).all()
    assert cropped(PICTURE, Found("car", 1, (5.2, 5.2, 5.4, 5.4))).size == (1, 1)


def test_clip_chooses_the_colour_whose_words_are_nearest(models: dict[str, Path]) -> None:
    from transformers import CLIPModel, CLIPProcessor

    reward = make_reward({"geneval": 1.0}, Tables(geneval=_settings(models)))
    assert isinstance(reward, GenevalReward)
    things = [Found("car", 1, (0, 0, 30, 30)), Found("car", 1, (20, 10, 64, 48))]
    named = reward.colors.name(PICTURE, "car", things)
    model, processor = CLIPModel.from_pretrained(models["clip"]), CLIPProcessor.from_pretrained(models["clip"])
    forms = ("a photo of a {} car", "a photo of a {}-colored car", "a photo of a {} object")
    best = []
    for thing in things:
        image = Image.fromarray(PICTURE).crop(tuple(int(edge) for edge in thing.box))
        scores = []
        for color in COLORS:
            inputs = processor(
                text=[form.format(color) for form in forms], images=[image], return_tensors="pt", padding=True
            )
            made = model(**inputs)  # its embeddings are unit vectors
            mean = made.text_embeds.mean(dim=0)
            scores.append(float(made.image_embeds[0] @ mean / mean.norm()))
        best.append(COLORS[int(np.argmax(scores))])
    assert named == best


def test_the_whole_reward_rates(models: dict[str, Path]) -> None:
    reward = make_reward({"geneval": 1.0}, Tables(geneval=_settings(models)))
    line = {"tag": "colors", "include": [{"class": "car", "count": 1, "color": "red"}], "prompt": "a red car"}
    ratings = reward.rate([Asked("a red car", None, line)] * 2, [PICTURE] * 2)
    assert len(ratings) == 2
    assert ratings[0] == ratings[1]
    assert set(ratings[0].parts) == {"right", "count", "color"}


def _settings(models: dict[str, Path]) -> Geneval:
    return Geneval(detector=str(models["segmenter"]), clip=str(models["clip"]), device="cpu", threshold=0.0)


def test_what_is_not_there_is_said_at_the_start(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    for settings, said in (
        (Geneval(detector=str(tmp_path / "empty"), device="cpu"), "the detector .*empty cannot be opened"),
        (Geneval(detector=str(models["clip"]), device="cpu"), "finds no objects|cannot be opened"),
        (Geneval(detector=str(models["boxes"]), clip=str(tmp_path / "empty"), device="cpu"), "the CLIP .* cannot be"),
    ):
        with pytest.raises(RecipeError, match=said):
            make_reward({"geneval": 1.0}, Tables(geneval=settings))
    with pytest.raises(RecipeError, match="no device nonsense"):
        device_of("nonsense")
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(is_available=lambda: False))
    assert device_of("auto").type == "cpu"
