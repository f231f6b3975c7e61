"""OpenAPI's document is true, and no request that it allows or forbids makes the server fail (schemathesis)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from unipic2_edge.runtime.bundle import Manifest
from unipic2_edge.runtime.conditioning_record import QueryConditioning
from unipic2_edge.runtime.serve.endpoints import ENDPOINTS, Endpoint, openapi

from .conftest import QUICK, FakePipeline, Running, running

schemathesis = pytest.importorskip("schemathesis")
#: Of each endpoint that takes a body, right and wrong: 1300 in all; the others have fewer.
CASES = int(os.environ.get("SCHEMATHESIS_CASES", "130"))
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
    known = {int(status) for status in operation.definition.raw["responses"]}
    statuses: list[int] = []

    @QUIET
    @given(case=operation.as_strategy(generation_mode=modes.POSITIVE if right else modes.NEGATIVE))
    def fuzz(case: Any) -> None:
        answer = case.call(base_url=fuzzed.url)
        statuses.append(answer.status_code)
        assert answer.status_code in known | MALFORMED, answer.text
        assert answer.status_code < 500 or "ready" in endpoint.path, answer.text

    fuzz()
    record_property("statuses", dict(Counter(statuses)))  # in the report of pytest's --junit-xml
    assert len(statuses) >= (CASES if endpoint.body else 1)
    if endpoint.body and not right:
        assert 200 not in statuses
