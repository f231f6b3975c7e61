"""Words from a bundle: streamed, bounded, about pictures of every kind; the second look at a picture is cheaper."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unipic2_edge.runtime.cli import main
from unipic2_edge.runtime.errors import BundleError, ImageError, RequestError
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.runtime.session import Array, Arrays


@pytest.fixture
def pipeline(metaquery_bundle: Path) -> Pipeline:
    return Pipeline.load(metaquery_bundle, "cpu", 1)


def _picture(size: tuple[int, int] = (64, 64), mode: str = "RGB", seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


class Counting:
    """A session that counts the tokens it reads."""

    def __init__(self, session: Any) -> None:
        self.graph, self.session, self.read = session.graph, session, 0

    def run(self, inputs: Arrays) -> dict[str, Array]:
        self.read += inputs["inputs_embeds"].shape[1]
        made: dict[str, Array] = self.session.run(inputs)
        return made

    def close(self) -> None:
        self.session.close()


def _counted(pipeline: Pipeline) -> Counting:
    """The language model of a pipeline, counted from now on."""
    counting = Counting(pipeline.sessions["language"])
    pipeline.sessions._opening["language"].set_result = None  # type: ignore[method-assign,assignment]
    future: Any = type(pipeline.sessions._opening["language"])()
    future.set_result(counting)
    pipeline.sessions._opening["language"] = future
    return counting


def test_words_come_piece_by_piece(pipeline: Pipeline) -> None:
    answer = pipeline.describe(_picture(), "what color is it?", max_new_tokens=5)
    assert answer.tokens == 0 and answer.finish_reason is None
    first = next(answer)
    assert first and answer.seconds_to_first is not None
    assert answer.text.startswith(first)
    assert answer.tokens <= 5 and answer.finish_reason in ("stop", "length")
    assert answer.seconds >= answer.seconds_to_first


def test_the_same_question_gives_the_same_words(pipeline: Pipeline, metaquery_bundle: Path) -> None:
    drawn = [
        pipeline.describe(_picture(), "why?", max_new_tokens=8, temperature=2.0, top_p=0.9, seed=seed).text
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    fresh = Pipeline.load(metaquery_bundle, "cpu", 1)
    assert fresh.describe(_picture(), "why?", max_new_tokens=8).text == (
        pipeline.describe(_picture(), "why?", max_new_tokens=8).text
    )


def test_a_second_question_reads_only_its_words(pipeline: Pipeline) -> None:
    counting = _counted(pipeline)
    first = pipeline.describe(_picture(), "what color is it?", max_new_tokens=1)
    assert first.text is not None
    whole, counting.read = counting.read, 0
    second = pipeline.describe(_picture(), "how many rings are there?", max_new_tokens=1)
    assert second.text is not None
    assert whole == first.prompt_tokens
    assert counting.read < second.prompt_tokens - 16  # the picture's tokens, and what stands before them


def test_a_second_edit_reads_only_the_instruction_and_the_queries(pipeline: Pipeline) -> None:
    counting = _counted(pipeline)
    options: dict[str, Any] = {"num_inference_steps": 1, "seed": 1, "negative_prompt": ""}
    pipeline.edit(_picture(), "make it blue", **options)
    first, counting.read = counting.read, 0
    again = pipeline.edit(_picture(), "make it red", **options)
    second, counting.read = counting.read, 0
    pipeline.edit(_picture(), "make it red", **options)
    assert again.steps_done == 1
    assert 8 < second < first / 2  # the negative prompt with this picture is known as well
    assert counting.read == 0


def test_the_empty_prompt_is_read_once_a_bundle(pipeline: Pipeline) -> None:
    counting = _counted(pipeline)
    pipeline.generate("a red circle", num_inference_steps=1, seed=1)
    counting.read = 0
    pipeline.generate("a blue ring", num_inference_steps=1, seed=1)
    alone, counting.read = counting.read, 0
    pipeline.generate("a green ring", num_inference_steps=1, seed=1, guidance_scale=1.0)
    assert alone == counting.read


@pytest.mark.parametrize("mode", ["L", "P", "LA", "RGBA", "1", "CMYK"])
def test_pictures_of_every_mode_are_seen(pipeline: Pipeline, mode: str) -> None:
    assert pipeline.describe(_picture(mode=mode), "what?", max_new_tokens=1).tokens == 0
    assert pipeline.describe(_picture((1, 1), mode), "what?", max_new_tokens=2).text is not None


def test_a_turned_and_an_animated_picture(pipeline: Pipeline, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = _picture((48, 80), seed=3)
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    options: dict[str, Any] = {"max_new_tokens": 4}
    assert pipeline.describe(tmp_path / "turned.png", "x", **options).text == (
        pipeline.describe(upright, "x", **options).text
    )
    frames = [_picture(mode="P", seed=seed) for seed in (1, 2)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError):
        pipeline.describe(tmp_path / "moving.gif", "x")


def test_what_cannot_be_answered_is_said_in_a_line(pipeline: Pipeline, tmp_path: Path, tiny_bundle: Path) -> None:
    with pytest.raises(RequestError, match="one side is more than 200 times"):
        pipeline.describe(_picture((1, 4000)), "what?")
    with pytest.raises(RequestError, match="too long"):
        pipeline.describe(_picture(), "word " * 2000)
    with pytest.raises(RequestError, match="neither a question nor a picture"):
        pipeline.describe()
    with pytest.raises(RequestError, match="image_pad"):
        pipeline.describe(None, "what is <|image_pad|>?")
    with pytest.raises(RequestError, match="0 tokens"):
        pipeline.describe(_picture(), "what?", max_new_tokens=0)
    buffer = io.BytesIO()
    _picture((200, 200)).save(buffer, format="PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:3000])
    with pytest.raises(ImageError):
        pipeline.describe(tmp_path / "cut.png", "what?")
    with pytest.raises(BundleError, match="no language model"):
        Pipeline.load(tiny_bundle, "cpu", 1).describe(_picture(), "what?")


def test_a_question_without_a_picture_and_about_several(pipeline: Pipeline) -> None:
    assert pipeline.describe(question="hello", max_new_tokens=3).text is not None
    both = pipeline.describe([_picture(seed=1), _picture(seed=2)], "which?", max_new_tokens=3)
    one = pipeline.describe(_picture(seed=1), "which?", max_new_tokens=3)
    assert both.prompt_tokens > one.prompt_tokens


def test_a_system_prompt_takes_the_templates_place(pipeline: Pipeline) -> None:
    given = pipeline.describe(_picture(), "x", system="you are brief.", max_new_tokens=1)
    none = pipeline.describe(_picture(), "x", system="", max_new_tokens=1)
    usual = pipeline.describe(_picture(), "x", max_new_tokens=1)
    same = pipeline.describe(_picture(), "x", system="You are a helpful assistant.", max_new_tokens=1)
    assert none.prompt_tokens < given.prompt_tokens
    assert usual.prompt_tokens == same.prompt_tokens and usual.text == same.text


def test_the_command(metaquery_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _picture().save(tmp_path / "picture.png")
    words = ["describe", str(metaquery_bundle), str(tmp_path / "picture.png"), "what?", "--max-tokens", "4"]
    assert main(words) == 0
    streamed = capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    assert '"text": "' in (told := capsys.readouterr().out) and '"finish_reason"' in told
    assert streamed.endswith("\n") and len(streamed) > 1
    assert main(["describe", str(metaquery_bundle), "-"]) == 2
    assert "neither a question nor a picture" in capsys.readouterr().err
