"""The pipeline against the whole chain written out in float64, and everything a caller may ask of it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from unipic2_edge.runtime import Pipeline
from unipic2_edge.runtime.bundle import Bundle, write_manifest
from unipic2_edge.runtime.errors import BundleError, ImageError, RequestError, WorkError
from unipic2_edge.runtime.noise import initial_latents, reference_noise

WORDS = ["a", "red", "blue", "circle", "square", "make", "the", "and", "on", "white", "!"]
SCALING, SHIFT = 1.5, 0.1


@pytest.fixture
def pipeline(folder: Path) -> Pipeline:
    return Pipeline.load(folder, "cpu", threads=1)


def _picture(width: int = 32, height: int = 32, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def _noise(height: int = 8, width: int = 8, count: int = 1) -> np.ndarray:
    return np.random.default_rng(9).standard_normal((count, 2, height, width))


class WrittenOut:
    """The hand-made model in float64, one picture at a time, two denoiser calls a step, no packing tricks."""

    def __init__(self, weights: dict, folder: Path) -> None:
        self.w = {name: {key: value.astype(float) for key, value in part.items()} for name, part in weights.items()}
        self.tables = {
            key: value.astype(float) for key, value in load_file(folder / "host/positions.safetensors").items()
        }

    def text(self, prompt: str) -> tuple[np.ndarray, np.ndarray]:
        words = [4 + WORDS.index(word) for word in prompt.split()]
        clip = ([1, *words, 2] + [0] * 6)[:6]
        t5 = ([*words, 2] + [0] * 5)[:5]
        first, second, long = (self.w[f"text_encoder{n}"]["table"] for n in ("", "_2", "_3"))
        side = np.concatenate([first[clip], second[clip], np.zeros((6, 12 - 7))], axis=1)
        pooled = np.concatenate([first[clip].mean(0), second[clip].mean(0)])
        return np.concatenate([side, long[t5]]), pooled

    def velocity(self, patches: np.ndarray, positions: np.ndarray, prompt: str, timestep: float) -> np.ndarray:
        w = self.w["denoiser"]
        context, pooled = self.text(prompt)
        tokens = patches @ w["from_patch"] + positions
        modulation = timestep / 1000 + pooled @ w["from_pooled"]
        return np.tanh(tokens + tokens.mean(0) + (context @ w["from_context"]).mean(0) + modulation) @ w["to_patch"]

    def positions(self, rows: int, columns: int) -> np.ndarray:
        top, left = (6 - rows) // 2, (6 - columns) // 2
        return np.array(
            [
                np.concatenate([self.tables["x"][left + column], self.tables["y"][top + row]])
                for row in range(rows)
                for column in range(columns)
            ]
        )

    def pack(self, latents: np.ndarray) -> np.ndarray:
        _, height, width = latents.shape
        blocks = [latents[:, r : r + 2, c : c + 2].ravel() for r in range(0, height, 2) for c in range(0, width, 2)]
        return np.array(blocks)

    def encode(self, picture: Image.Image) -> np.ndarray:
        pixels = np.asarray(picture).astype(float).transpose(2, 0, 1) / 127.5 - 1
        height, width = pixels.shape[1] // 4, pixels.shape[2] // 4
        blocks = pixels.reshape(3, height, 4, width, 4)
        return np.einsum("ayubv,cauv->cyb", blocks, self.w["vae"]["encode"])

    def denoise(
        self, latents: np.ndarray, prompt: str, negative: str, steps: int, guidance: float, reference: Any = None
    ) -> np.ndarray:
        _, height, width = latents.shape
        levels = np.linspace(1, 3 * 0.001 / (1 + 2 * 0.001), steps)
        sigmas = np.append(3 * levels / (1 + 2 * levels), 0)
        packed, positions = self.pack(latents), self.positions(height // 2, width // 2)
        for sigma, following in pairwise(sigmas):
            given, places = packed, positions
            if reference is not None:
                given, places = np.concatenate([self.pack(reference), packed]), np.concatenate([positions] * 2)
            guided = self.velocity(given, places, prompt, 1000 * sigma)
            if guidance > 1:
                away = self.velocity(given, places, negative, 1000 * sigma)
                guided = away + guidance * (guided - away)
            packed = packed + (following - sigma) * guided[-len(packed) :]
        result = np.zeros_like(latents)
        for index, (row, column) in enumerate((r, c) for r in range(0, height, 2) for c in range(0, width, 2)):
            result[:, row : row + 2, column : column + 2] = packed[index].reshape(2, 2, 2)
        return result

    def decode(self, latents: np.ndarray) -> np.ndarray:
        image = np.einsum("cyb,cauv->ayubv", latents / SCALING + SHIFT, self.w["vae"]["decode"])
        _, height, _, width, _ = image.shape
        pixels = image.reshape(3, height * 4, width * 4).transpose(1, 2, 0)
        return (np.clip(pixels / 2 + 0.5, 0, 1) * 255).round()


@pytest.fixture
def written_out(weights: dict, folder: Path) -> WrittenOut:
    return WrittenOut(weights, folder)


def _close(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("guidance", [3.5, 1.0, 0.0])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 12), (12, 6)])
def test_generation_is_the_formula(
    pipeline: Pipeline, written_out: WrittenOut, guidance: float, height: int, width: int
) -> None:
    latents = _noise(height, width)
    result = pipeline.generate(
        "a red circle", negative_prompt="blue", num_inference_steps=5, guidance_scale=guidance, latents=latents
    )
    expected = written_out.denoise(latents[0], "a red circle", "blue", 5, guidance)
    _close(result.latents[0], expected)
    assert result.images[0].size == (width * 4, height * 4)
    assert np.abs(np.asarray(result.images[0]) - written_out.decode(expected)).max() <= 1


@pytest.mark.parametrize("guidance", [3.5, 1.0])
@pytest.mark.parametrize("reference", ["mode", "sample"])
def test_editing_is_the_formula(pipeline: Pipeline, written_out: WrittenOut, guidance: float, reference: Any) -> None:
    picture, noise = _picture(), initial_latents((5,), (2, 8, 8))[0]
    result = pipeline.edit(
        picture, "make the circle blue", num_inference_steps=3, guidance_scale=guidance, seed=5, reference=reference
    )
    encoded = written_out.encode(picture)
    if reference == "sample":
        encoded = encoded + np.exp((encoded - 4) / 2) * reference_noise(5, encoded.shape)
    given = (encoded - SHIFT) * SCALING
    expected = written_out.denoise(noise.astype(float), "make the circle blue", "white", 3, guidance, given)
    _close(result.latents[0], expected)
    without = written_out.denoise(noise.astype(float), "make the circle blue", "white", 3, guidance)
    assert np.abs(result.latents[0] - without).max() > 0.01  # the reference is seen


def test_the_same_seed_gives_the_same_picture(pipeline: Pipeline, folder: Path) -> None:
    first = pipeline.generate("a red circle", seed=3)
    again = Pipeline.load(folder, threads=1).generate("a red circle", seed=3)
    np.testing.assert_array_equal(first.latents, again.latents)
    assert first.images[0].tobytes() == again.images[0].tobytes()
    assert not np.allclose(first.latents, pipeline.generate("a red circle", seed=4).latents)


def test_a_picture_of_a_batch_is_the_picture_alone(pipeline: Pipeline) -> None:
    batch = pipeline.generate(["a red circle", "a blue square"], seed=10, num_images=2)
    assert batch.seeds == (10, 11, 12, 13)
    assert [settings.prompt for settings in batch.settings] == ["a red circle"] * 2 + ["a blue square"] * 2
    for row, settings in enumerate(batch.settings):
        alone = pipeline.generate(settings.prompt, seed=settings.seed)
        _close(batch.latents[row], alone.latents[0])


def test_several_pictures_are_edited_in_one_batch(pipeline: Pipeline) -> None:
    pictures, instructions = [_picture(seed=1), _picture(seed=2)], ["make the circle blue", "make the square red"]
    for reference in ("mode", "sample"):
        batch = pipeline.edit(pictures, instructions, seed=(4, 9), reference=reference)
        for row in range(2):
            alone = pipeline.edit(pictures[row], instructions[row], seed=(4, 9)[row], reference=reference)
            _close(batch.latents[row], alone.latents[0])
    with pytest.raises(RequestError, match="2 pictures for 3 instructions"):
        pipeline.edit(pictures, ["make the square red"] * 3)


def test_a_missing_seed_is_drawn_and_reported(pipeline: Pipeline) -> None:
    result = pipeline.generate("a red circle")
    assert result.seeds is not None and result.settings[0].seed == result.seeds[0]
    again = pipeline.generate("a red circle", seed=result.seeds[0])
    np.testing.assert_array_equal(again.latents, result.latents)


def test_latents_replace_the_seed(pipeline: Pipeline) -> None:
    result = pipeline.generate("a red circle", latents=initial_latents((3,), (2, 8, 8)))
    assert result.seeds is None and result.settings[0].seed is None
    np.testing.assert_array_equal(result.latents, pipeline.generate("a red circle", seed=3).latents)


def test_the_defaults_are_the_bundles(pipeline: Pipeline) -> None:
    settings = pipeline.edit(_picture(64, 48), "make the circle blue").settings[0]
    assert (settings.width, settings.height, settings.num_inference_steps) == (32, 32, 4)  # 24 rounds to 32
    assert (settings.guidance_scale, settings.negative_prompt, settings.reference) == (3.5, "white", "mode")
    assert pipeline.generate("a red circle").settings[0].negative_prompt == ""


def test_an_edited_picture_may_have_any_size_on_the_grid(pipeline: Pipeline) -> None:
    assert pipeline.edit(_picture(), "make the circle blue", width=48, height=24).images[0].size == (48, 24)
    with pytest.raises(RequestError, match="longer edge must be a multiple of 32") as caught:
        pipeline.edit(_picture(), "make the circle blue", size=40)
    assert caught.value.mend.endswith("32")
    with pytest.raises(RequestError, match="different shapes"):
        pipeline.edit([_picture(64, 16), _picture(16, 64)], ["make the circle blue"] * 2, size=32 * 3)


def test_the_modulation_runs_once_and_the_denoiser_once_a_step(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int]] = []
    for name in ("modulation", "denoiser", "text_encoder"):
        session = pipeline.sessions[name]
        monkeypatch.setattr(
            session,
            "run",
            lambda inputs, name=name, run=session.run: (
                calls.append((name, len(next(iter(inputs.values()))))),
                run(inputs),
            )[1],
        )
    pipeline.generate("a red circle", num_inference_steps=3, num_images=2)
    # two distinct prompts; the modulation's first input is the timesteps; 2 pictures × 2 guidance rows
    assert calls == [("text_encoder", 2), ("modulation", 3), *[("denoiser", 4)] * 3]
    calls.clear()
    pipeline.generate("a red circle", num_inference_steps=3, guidance_scale=1)
    assert calls == [("modulation", 3), *[("denoiser", 1)] * 3]


def test_the_callback_sees_every_step_and_may_replace_latents(pipeline: Pipeline) -> None:
    seen: list[tuple[int, float]] = []

    def note(sender: Pipeline, step: int, timestep: float, state: dict[str, Any]) -> None:
        assert sender is pipeline and state["latents"].shape == (1, 2, 8, 4)
        seen.append((step, timestep))

    pipeline.generate("a red circle", height=32, width=16, seed=1, callback_on_step_end=note)
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    assert seen[0][1] == 1000 and all(a > b for (_, a), (_, b) in pairwise(seen))
    fixed = np.full((1, 2, 8, 8), 0.25)
    result = pipeline.generate("a red circle", callback_on_step_end=lambda *_: {"latents": fixed})
    np.testing.assert_array_equal(result.latents, fixed)
    with pytest.raises(RequestError, match="latents have the shape"):
        pipeline.generate("a red circle", callback_on_step_end=lambda *_: {"latents": fixed[0]})


def test_a_callback_may_stop_the_work(pipeline: Pipeline) -> None:
    def stop(sender: Pipeline, step: int, timestep: float, state: dict[str, Any]) -> None:
        sender.interrupt = step == 1

    result = pipeline.generate("a red circle", seed=1, callback_on_step_end=stop)
    assert result.steps_done == 2 and len(result.images) == 1
    assert pipeline.generate("a red circle", seed=1).steps_done == 4


def test_every_stage_is_timed(pipeline: Pipeline) -> None:
    result = pipeline.edit(_picture(), "make the circle blue")
    seconds = result.seconds
    assert set(seconds) == {"check", "tokenise", "text", "reference", "modulation", "denoise", "decode", "total"}
    assert sum(seconds.values()) - seconds["total"] == pytest.approx(seconds["total"], rel=0.2)
    assert len(result.step_seconds) == 4 and sum(result.step_seconds) <= seconds["denoise"]
    assert result.seconds_to_first_step is not None
    assert result.step_seconds[0] < result.seconds_to_first_step <= seconds["total"] - sum(result.step_seconds[1:])


def test_numbers_that_overflow_make_no_picture(pipeline: Pipeline) -> None:
    huge = np.full((1, 2, 8, 8), 3e38)
    with pytest.raises(WorkError, match="overflowed"), np.errstate(all="ignore"):
        pipeline.generate("a red circle", latents=huge, callback_on_step_end=lambda *_: _spoil(pipeline))


def _spoil(pipeline: Pipeline) -> None:
    session = pipeline.sessions["denoiser"]
    session.run = lambda inputs: {"velocity": np.full((2, 16, 8), np.nan, np.float32)}  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": "a red blue circle square"}, "5 tokens, at most 4"),
        ({"negative_prompt": "a red blue circle square"}, "5 tokens, at most 4"),
        ({"width": 30}, "nearest|does not fit"),
        ({"width": 0}, "does not fit"),
        ({"height": 56}, "too large"),
        ({"num_inference_steps": 0}, "0 steps"),
        ({"guidance_scale": float("nan")}, "guidance"),
        ({"seed": -1}, "seed"),
        ({"num_images": 0}, "0 pictures"),
    ],
)
def test_a_wrong_request_opens_no_graph(pipeline: Pipeline, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(RequestError, match=problem) as caught:
        pipeline.generate(**({"prompt": "a red circle"} | options))
    assert caught.value.mend and caught.value.exit_code == 2
    assert pipeline.sessions._opening == {}


def test_wrong_edits_are_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot read"):
        pipeline.edit(tmp_path / "missing.png", "make the circle blue")
    with pytest.raises(RequestError, match="no reference 'mean'"):
        pipeline.edit(_picture(), "make the circle blue", reference="mean")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="needs a seed"):
        pipeline.edit(_picture(), "make the circle blue", reference="sample", latents=_noise())
    with pytest.raises(RequestError, match="prompt is empty"):
        pipeline.edit(_picture(), " ")


def test_wrong_loads_are_refused(folder: Path) -> None:
    with pytest.raises(RequestError, match="0 threads"):
        Pipeline.load(folder, threads=0)
    with pytest.raises(RequestError, match="no device 'tpu'"):
        Pipeline.load(folder, device="tpu")


@pytest.mark.parametrize("graph", ["denoiser", "vae_decoder", "text_encoder_3"])
def test_a_missing_component_is_named(folder: Path, graph: str) -> None:
    pipeline = Pipeline.load(folder)
    del pipeline.manifest.graphs[graph]
    with pytest.raises(BundleError, match=f"no graph '{graph}'"):
        pipeline.generate("a red circle")
    assert pipeline.sessions._opening == {}


def test_generation_needs_no_encoder_of_pictures(folder: Path) -> None:
    pipeline = Pipeline.load(folder)
    del pipeline.manifest.graphs["vae_encoder"]
    assert len(pipeline.generate("a red circle").images) == 1
    with pytest.raises(BundleError, match="no graph 'vae_encoder'"):
        pipeline.edit(_picture(), "make the circle blue")


def test_a_damaged_file_is_found_before_its_graph_runs(folder: Path) -> None:
    path = folder / "weights/denoiser.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(BundleError, match=r"denoiser\.safetensors is damaged"):
        Pipeline.load(folder).generate("a red circle")


def test_a_bundle_without_text_cannot_generate(bundle: Bundle, folder: Path) -> None:
    write_manifest(folder, msgspec.structs.replace(bundle.manifest, text=None))
    with pytest.raises(BundleError, match="no text encoders"):
        Pipeline.load(folder).generate("a red circle")


def test_one_graph_at_a_time_makes_the_same_pictures_and_previews(pipeline: Pipeline) -> None:
    previews: list[bytes] = []

    def look(sender: Pipeline, step: int, timestep: float, state: dict[str, Any]) -> None:
        previews.append(sender.decode(state["denoised"])[0].tobytes())

    options: dict[str, Any] = {"seed": 3, "num_inference_steps": 3, "width": 32, "height": 32}
    planned = pipeline.generate("a ring", callback_on_step_end=look, **options).images[0].tobytes()
    pipeline.stage(True)
    assert pipeline.generate("a ring", callback_on_step_end=look, **options).images[0].tobytes() == planned
    assert previews[:3] == previews[3:]
    assert len(pipeline.sessions._opening) == 1
    pipeline.stage(False)
    assert pipeline.generate("a ring", **options).images[0].tobytes() == planned
    assert len(pipeline.sessions._opening) > 1
