"""OpenAI's own Python client against a running server over the hand-made bundle."""

from __future__ import annotations

import base64
import io

import openai
import pytest
from PIL import Image

from unipic2_edge.runtime.pipeline import Pipeline

from .conftest import Running


@pytest.fixture
def client(real: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{real.url}/v1", api_key="none", max_retries=0)


def _picture(encoded: str | None) -> Image.Image:
    assert encoded is not None
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def _upload(size: tuple[int, int] = (64, 64)) -> tuple[str, bytes, str]:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, format="PNG")
    return "red.png", buffer.getvalue(), "image/png"


def test_generate(client: openai.OpenAI) -> None:
    made = client.images.generate(
        prompt="a red circle", n=2, size="48x32", extra_body={"num_inference_steps": 2, "seed": 5}
    )
    pictures = [_picture(data.b64_json) for data in made.data or []]
    assert [picture.size for picture in pictures] == [(48, 32), (48, 32)]
    assert '"seed":6' in str(pictures[1].info["unipic2-edge"])


def test_the_same_seed_gives_the_pipelines_picture(client: openai.OpenAI, real: Running) -> None:
    made = client.images.generate(prompt="a ring", extra_body={"num_inference_steps": 3, "seed": 7})
    pipeline = real.state.worker._pipeline
    assert isinstance(pipeline, Pipeline)
    direct = pipeline.generate("a ring", num_inference_steps=3, seed=7).images[0]
    assert _picture((made.data or [])[0].b64_json).tobytes() == direct.tobytes()


def test_edit_and_formats(client: openai.OpenAI) -> None:
    made = client.images.edit(
        image=_upload(),
        prompt="make it blue",
        output_format="jpeg",
        extra_body={"num_inference_steps": "2", "seed": "1"},
    )
    assert _picture((made.data or [])[0].b64_json).format == "JPEG"


def test_stream_of_a_generation(client: openai.OpenAI) -> None:
    events = list(
        client.images.generate(
            prompt="a red circle", stream=True, partial_images=2, extra_body={"num_inference_steps": 6}
        )
    )
    assert [event.type for event in events] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert all(_picture(event.b64_json).size == (32, 32) for event in events)


def test_stream_of_an_edit(client: openai.OpenAI) -> None:
    events = list(
        client.images.edit(
            image=_upload(),
            prompt="make it blue",
            stream=True,
            partial_images=1,
            extra_body={"num_inference_steps": "4"},
        )
    )
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]


def test_models(client: openai.OpenAI, real: Running) -> None:
    assert [model.id for model in client.models.list()] == [real.state.manifest.name]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("dall-e-3")


def test_errors_are_openais(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="unknown field `sed`") as caught:
        client.images.generate(prompt="a ring", extra_body={"sed": 1})
    assert caught.value.code == "unknown_field"
    assert caught.value.param == "sed"
    with pytest.raises(openai.BadRequestError, match="nearest size that fits"):
        client.images.generate(prompt="a ring", size="33x32")  # type: ignore[call-overload]
