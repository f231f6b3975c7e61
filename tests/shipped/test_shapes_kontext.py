"""The shipped model: what its card promises of the files, and golden pictures of its bundle.

`pytest tests/shipped --update-golden` draws the golden pictures anew; look at them before committing them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unipic2_edge.bench.compare import psnr
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.training.layout import PARTS, CheckpointFolder
from unipic2_edge.training.shapes.render import render
from unipic2_edge.training.shapes.scene import Canvas, Object, Scene

GOLDEN = Path(__file__).parent / "golden"
THREE = "three red circles on a white background"
LEAST_PSNR = 40.0  # dB; another processor or ONNX Runtime rounds differently, a wrong graph is below 30
SOURCE = Scene(
    Canvas(64, 64), "black", (Object("circle", "red", (0, 0), (0, 0), 14), Object("cross", "cyan", (2, 1), (1, 0), 14))
)


def _source() -> Image.Image:
    return Image.fromarray(render(SOURCE))


#: Golden picture → how it is made.
MADE: dict[str, Callable[[Pipeline], Image.Image]] = {
    "generated": lambda p: p.generate("a red circle and a blue square on a white background", seed=5).images[0],
    "unguided": lambda p: p.generate("two green rings", seed=5, guidance_scale=1.0).images[0],
    "wide": lambda p: p.generate(THREE, seed=1, width=128, height=96, num_inference_steps=12).images[0],
    "tall": lambda p: p.generate(THREE, seed=1, width=96, height=128, num_inference_steps=12).images[0],
    "edited": lambda p: p.edit(_source(), "remove the cyan cross", seed=5).images[0],
}


@pytest.fixture(scope="module")
def pipeline(bundle: Path) -> Pipeline:
    return Pipeline.load(bundle)


def test_it_is_whole_and_small(checkpoint: Path) -> None:
    assert all(CheckpointFolder.open(checkpoint).has(part) for part in PARTS)
    assert sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file()) <= 60e6
    card = (checkpoint / "README.md").read_text(encoding="utf-8")
    assert "64×64" in card and "## Scores" in card
    recipes = {path.stem for path in (checkpoint / "training").glob("*.toml")}
    assert recipes == {path.stem for path in (checkpoint / "training").glob("*.jsonl")} != set()


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_golden_pictures(pipeline: Pipeline, name: str, request: pytest.FixtureRequest) -> None:
    made, path = MADE[name](pipeline), GOLDEN / f"{name}.png"
    if request.config.getoption("--update-golden"):
        made.save(path)
    golden = np.asarray(Image.open(path))
    assert made.size == golden.shape[1::-1]
    assert psnr(np.asarray(made), golden) >= LEAST_PSNR


@pytest.mark.slow
def test_golden_pictures_can_fail(pipeline: Pipeline) -> None:
    other = pipeline.generate("a red circle and a blue square on a white background", seed=6).images[0]
    distance = psnr(np.asarray(other), np.asarray(Image.open(GOLDEN / "generated.png")))
    assert distance < LEAST_PSNR and math.isfinite(distance)


@pytest.mark.slow
def test_generation_and_editing_share_one_graph_and_one_weights_file(bundle: Path) -> None:
    assert sorted(path.name for path in (bundle / "weights").iterdir()) == [
        "denoiser.safetensors",
        "text_encoder.safetensors",
        "text_encoder_2.safetensors",
        "text_encoder_3.safetensors",
        "vae.safetensors",
    ]
    assert {path.stem for path in (bundle / "graphs").iterdir()} == {
        "denoiser",
        "modulation",
        "text_encoder",
        "text_encoder_2",
        "text_encoder_3",
        "vae_decoder",
        "vae_encoder",
    }
