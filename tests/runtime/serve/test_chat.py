"""Questions answered in words, by OpenAI's own client, over the tiny MetaQuery bundle and over a failing pipeline."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.errors import DeviceLostError, WorkError
from unipic2_edge.runtime.pipeline import Pipeline

from .conftest import FakePipeline, Running, running


@pytest.fixture(scope="module")
def talking(metaquery_bundle: Path) -> Iterator[Running]:
    manifest = Bundle(metaquery_bundle).manifest
    with running(manifest, lambda: Pipeline.load(metaquery_bundle, "cpu", 1)) as made:
        yield made


@pytest.fixture
def client(talking: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{talking.url}/v1", api_key="none", max_retries=0)


def _uri(color: str = "red") -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), color).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _question(text: str = "what color is it?", **picture: str) -> list[Any]:
    seen = {"type": "image_url", "image_url": {"url": picture.get("url", _uri())}}
    return [{"role": "user", "content": [seen, {"type": "text", "text": text}]}]


def test_an_answer_is_the_pipelines(client: openai.OpenAI, metaquery_bundle: Path) -> None:
    made = client.chat.completions.create(model="", messages=_question(), max_tokens=5, temperature=0)
    picture = Image.new("RGB", (64, 64), "red")
    expected = Pipeline.load(metaquery_bundle, "cpu", 1).describe(picture, "what color is it?", max_new_tokens=5)
    assert made.choices[0].message.content == expected.text
    assert made.choices[0].finish_reason == expected.finish_reason
    assert made.usage is not None
    assert (made.usage.prompt_tokens, made.usage.completion_tokens) == (expected.prompt_tokens, expected.tokens)
    assert made.object == "chat.completion" and made.id.startswith("chatcmpl-")


def test_a_stream_says_the_same_piece_by_piece(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "", "messages": _question("why?"), "max_tokens": 6}
    whole = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **options))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage is not None and chunks[-1].usage == whole.usage


def test_words_alone_and_a_system_message(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    assert client.chat.completions.create(model="", messages=messages, max_tokens=3).choices[0].message.content


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"messages": []}, 400, "invalid_field"),
        ({"messages": [{"role": "user", "content": ""}]}, 400, "invalid_request"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}, 400, "one_question"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, 400, "one_question"),
        ({"messages": [{"role": "user", "content": "a"}], "max_tokens": 5000}, 400, "too_much"),
        ({"messages": [{"role": "user", "content": "a " * 3000}]}, 400, "too_much"),
        ({"messages": [{"role": "user", "content": "a"}], "tools": []}, 400, "unknown_field"),
        ({"messages": [{"role": "user", "content": "a"}], "model": "gpt-4"}, 404, "model_not_found"),
        ({"messages": _question(url="http://127.0.0.1/x.png")}, 400, "invalid_image"),
        ({"messages": _question("<|image_pad|>")}, 400, "invalid_request"),
    ],
)
def test_what_is_wrong_is_said_in_openais_form(talking: Running, body: dict[str, Any], status: int, code: str) -> None:
    with talking.client() as client:
        answer = client.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_it_is_in_the_document_and_among_the_tasks(talking: Running, real: Running) -> None:
    with talking.client() as client:
        assert "/v1/chat/completions" in client.get("/openapi.json").json()["paths"]
        assert client.get("/v1/models").json()["data"][0]["tasks"] == ["describe", "edit", "generate"]
    with real.client() as client:
        assert client.post("/v1/chat/completions", json={}).status_code == 404
        assert "/v1/chat/completions" not in client.get("/openapi.json").json()["paths"]


@pytest.fixture
def fake(metaquery_bundle: Path) -> Iterator[tuple[Running, FakePipeline]]:
    pipeline = FakePipeline()
    with running(Bundle(metaquery_bundle).manifest, lambda: pipeline) as made:
        yield made, pipeline


def _ask(server: Running, **fields: Any) -> httpx.Response:
    with server.client() as client:
        return client.post("/v1/chat/completions", json={"messages": _question(), **fields})


def test_a_fault_is_an_answer_and_the_next_question_is_answered(fake: tuple[Running, FakePipeline]) -> None:
    server, pipeline = fake
    pipeline.faults = [WorkError("the numbers overflowed in /secret/bundle", "x"), DeviceLostError("gone", "x")]
    broken, lost, well = (_ask(server) for _ in range(3))
    assert (broken.status_code, lost.status_code, well.status_code) == (500, 503, 200)
    assert "secret" not in broken.text
    assert well.json()["choices"][0]["message"]["content"] == "1 pictures seen"
    assert "unipic2_answer_tokens_total 3.0" in httpx.get(f"{server.url}/metrics").text


def test_who_hangs_up_frees_the_device(fake: tuple[Running, FakePipeline]) -> None:
    server, pipeline = fake
    pipeline.step_seconds = 0.3
    with (
        server.client() as client,
        client.stream("POST", "/v1/chat/completions", json={"messages": _question(), "stream": True}) as answer,
    ):
        next(answer.iter_lines())
    pipeline.step_seconds = 0.0
    assert _ask(server).status_code == 200


def test_questions_and_pictures_take_turns(fake: tuple[Running, FakePipeline]) -> None:
    server, pipeline = fake
    pipeline.hold.clear()
    found: list[int] = []
    asking = [threading.Thread(target=lambda: found.append(_ask(server).status_code)) for _ in range(2)]

    def paint() -> None:
        with server.client() as client:
            found.append(client.post("/v1/images/generations", json={"prompt": "a ring"}).status_code)

    threads = [*asking, threading.Thread(target=paint)]
    for thread in threads:
        thread.start()
    pipeline.hold.set()
    for thread in threads:
        thread.join()
    assert found == [200] * 3
