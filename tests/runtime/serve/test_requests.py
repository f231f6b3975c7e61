"""What is asked for: limits, wrong fields, pictures that are none; each refused in OpenAI's form."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image

from .conftest import Running


def _uri(picture: Image.Image, kind: str = "PNG") -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


RED = _uri(Image.new("RGB", (64, 64), "red"))


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({}, 400, "invalid_field", None),
        ({"prompt": ""}, 400, "invalid_field", "prompt"),
        ({"prompt": "  "}, 400, "invalid_request", None),
        ({"prompt": 3}, 400, "invalid_field", "prompt"),
        ({"prompt": "a ring", "steps": 3}, 400, "unknown_field", "steps"),
        ({"prompt": "a ring", "num_inference_steps": 0}, 400, "invalid_field", "num_inference_steps"),
        ({"prompt": "a ring", "num_inference_steps": 101}, 400, "too_much", "num_inference_steps"),
        ({"prompt": "a ring", "n": 11}, 400, "too_much", "n"),
        ({"prompt": "x" * 4001}, 400, "too_much", "prompt"),
        ({"prompt": "a ring", "size": "big"}, 400, "invalid_field", "size"),
        ({"prompt": "a ring", "size": "33x32"}, 400, "invalid_request", None),
        ({"prompt": "a ring", "size": "99999x99999"}, 400, "invalid_request", None),
        ({"prompt": "a ring", "seed": -1}, 400, "invalid_field", "seed"),
        ({"prompt": "a ring", "guidance_scale": -1}, 400, "invalid_field", "guidance_scale"),
        ({"prompt": "a ring", "output_format": "gif"}, 400, "invalid_field", "output_format"),
        ({"prompt": "a ring", "partial_images": 4}, 400, "invalid_field", "partial_images"),
        ({"prompt": "a ring", "background": "transparent"}, 400, "invalid_field", "background"),
        ({"prompt": "a ring", "model": "dall-e-3"}, 404, "model_not_found", "model"),
    ],
)
def test_a_wrong_generation_is_refused(
    server: Running, body: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    with server.client() as client:
        answer = client.post("/v1/images/generations", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert error["message"]
    assert error["type"]


def _bomb() -> str:
    """The header of a PNG of 81 megapixels, which unpacks to 243 MB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * (9000 * 3 + 1) * 9000, 9)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("http://127.0.0.1:1/a.png", "addresses are not fetched"),
        ("file:///etc/passwd", "addresses are not fetched"),
        ("data:text/plain;base64,AAAA", "no data URI"),
        ("data:image/png;base64,###", "base64 is damaged"),
        ("data:image/png;base64,AAAA", "not a picture"),
        (_uri(Image.new("RGB", (8, 8)), "GIF"), "not a picture"),
        (RED[:-60], "damaged"),
        ([RED, RED], "several pictures"),
        ([], "no picture"),
    ],
)
def test_a_picture_that_is_none_is_refused(server: Running, image: Any, said: str) -> None:
    with server.client() as client:
        answer = client.post("/v1/images/edits", json={"prompt": "make it blue", "image": image})
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


def test_a_picture_that_unpacks_to_too_much_is_refused_by_its_header(server: Running) -> None:
    with server.client() as client:
        answer = client.post("/v1/images/edits", json={"prompt": "make it blue", "image": _bomb()})
    assert answer.status_code == 400
    assert "9000x9000" in answer.json()["error"]["message"]


def test_a_form_that_is_wrong_is_refused(server: Running) -> None:
    picture = ("red.png", base64.b64decode(RED.partition(",")[2]), "image/png")
    with server.client() as client:
        mask = client.post("/v1/images/edits", data={"prompt": "x"}, files={"image": picture, "mask": picture})
        none = client.post("/v1/images/edits", data={"prompt": "x"}, files={"other": picture})
        field = client.post("/v1/images/edits", data={"prompt": "x", "colour": "y"}, files={"image": picture})
        broken = client.post(
            "/v1/images/edits", content=b"--x\r\nnonsense", headers={"content-type": "multipart/form-data; boundary=x"}
        )
    assert [answer.status_code for answer in (mask, none, field, broken)] == [400, 400, 400, 400]
    assert mask.json()["error"]["param"] == "mask"
    assert field.json()["error"]["param"] == "colour"


def test_what_is_no_json_is_refused(server: Running) -> None:
    with server.client() as client:
        for body in (b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000):
            answer = client.post("/v1/images/generations", content=body)
            assert answer.status_code == 400
            assert answer.json()["error"]["code"] in ("invalid_json", "invalid_field")


def test_paths_and_methods_that_are_none(server: Running) -> None:
    with server.client() as client:
        assert client.get("/v1/nothing").json()["error"]["code"] == "not_found"
        assert client.get("/v1/images/generations").json()["error"]["code"] == "method_not_allowed"
        assert client.get("/page/../../../../etc/passwd").status_code == 404


def test_a_url_is_a_data_uri(server: Running) -> None:
    with server.client() as client:
        answer = client.post(
            "/v1/images/generations", json={"prompt": "a ring", "response_format": "url", "output_format": "webp"}
        )
    assert answer.json()["data"][0]["url"].startswith("data:image/webp;base64,")
