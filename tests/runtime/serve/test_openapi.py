"""OpenAPI's document is true, and no request that it allows or forbids makes the server fail (schemathesis)."""

from __future__ import annotations

import base64
import copy
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import booleans
from PIL import Image

from unipic2_edge.runtime.bundle import Manifest
from unipic2_edge.runtime.conditioning_record import QueryConditioning
from unipic2_edge.runtime.serve.endpoints import ENDPOINTS, Endpoint, openapi

from .conftest import QUICK, FakePipeline, Running, running


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(buffer, format="PNG")
    return buffer.getvalue()


schemathesis = pytest.importorskip("schemathesis")
#: Of each endpoint that takes a body, right and wrong: 1300 in all; the others have fewer.
CASES = int(os.environ.get("SCHEMATHESIS_CASES", "130"))
PICTURE = picture()
URI = f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}"
MALFORMED = {400, 405, 411}  # may be said of any request
QUIET = settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def test_every_endpoint_is_in_the_document(manifest: Manifest) -> None:
    paths = openapi(manifest.name)["paths"]
    assert isinstance(paths, dict)
    assert {(path, method) for path, methods in paths.items() for method in methods} == {
        (endpoint.path, endpoint.method.lower()) for endpoint in ENDPOINTS
    }


@pytest.fixture(scope="module")
def fuzzed(manifest: Manifest) -> Iterator[Running]:
    """Of a bundle that answers in words as well, so that every endpoint is there."""
    words = QueryConditioning("a", "b", "c", "d", count=1, context_dim=1, pooled_dim=1)
    with running(msgspec.structs.replace(manifest, query=words), FakePipeline, QUICK) as made:
        yield made


def _make_it_known(case: Any, job: str) -> None:
    """What chance does not hit: this model, a job that is there, a picture that is one."""
    if "id" in (case.path_parameters or {}):
        case.path_parameters = {**case.path_parameters, "id": job}
    if isinstance(case.body, dict):
        case.body = copy.deepcopy(case.body)  # schemathesis may hand the same one out again
        case.body.pop("model", None)
        if "image" in case.body:
            case.body["image"] = URI if case.media_type == "application/json" else PICTURE
        for message in case.body.get("messages", ()):
            for part in message["content"] if isinstance(message["content"], list) else ():
                if part["type"] == "image_url":
                    part["image_url"]["url"] = URI


def test_an_edit_may_be_a_form(manifest: Manifest) -> None:
    paths: Any = openapi(manifest.name)["paths"]
    form = paths["/v1/images/edits"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["properties"]["image"]["format"] == "binary" and "image" in form["required"]
    assert "multipart/form-data" not in paths["/v1/images/generations"]["post"]["requestBody"]["content"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("endpoint", "right"),
    [(endpoint, right) for endpoint in ENDPOINTS for right in (True, False) if right or endpoint.body],
    ids=lambda value: f"{value.method} {value.path}" if isinstance(value, Endpoint) else "right" if value else "wrong",
)
def test_nothing_makes_it_fail(
    endpoint: Endpoint, right: bool, fuzzed: Running, record_property: Callable[[str, object], None]
) -> None:
    document = openapi(fuzzed.state.manifest.name)
    operation: Any = schemathesis.openapi.from_dict(document)[endpoint.path][endpoint.method]
    modes = schemathesis.GenerationMode
    documented = {int(status) for status in operation.definition.raw["responses"]}
    statuses: list[int] = []
    accepted: list[str] = []

    with fuzzed.client() as client:
        job = client.post("/v1/jobs/generations", json={"prompt": "a ring"}).json()["id"]

    @QUIET
    @given(case=operation.as_strategy(generation_mode=modes.POSITIVE if right else modes.NEGATIVE), known=booleans())
    def fuzz(case: Any, known: bool) -> None:
        if right and known:
            _make_it_known(case, job)
        answer = case.call(base_url=fuzzed.url)
        statuses.append(answer.status_code)
        # The fields of a form are text, whatever they are in JSON: a prompt of 0 is the prompt "0" there.
        if not right and answer.status_code == 200 and case.media_type == "application/json":
            accepted.append(f"{case.media_type}: {answer.request.body!r}")
        assert answer.status_code in documented | MALFORMED, answer.text
        assert answer.status_code < 500 or "ready" in endpoint.path, answer.text

    fuzz()
    record_property("statuses", dict(Counter(statuses)))  # in the report of pytest's --junit-xml
    assert len(statuses) >= (CASES if endpoint.body else 1)
    assert accepted == []
