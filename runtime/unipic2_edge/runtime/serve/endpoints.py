"""Every endpoint in one table: from it come the routes and OpenAPI's document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from . import chat_api, images_api, jobs_api, service_api
from .chat_messages import ChatAnswer, ChatRequest
from .messages import (
    EditRequest,
    ErrorAnswer,
    Health,
    ImageAnswer,
    ImageRequest,
    JobAnswer,
    JobList,
    Message,
    Model,
    ModelList,
)

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Endpoint:
    """One method on one path; `answer` is a struct, or a media type; a `form` may come as multipart/form-data, too."""

    method: str
    path: str
    handler: Handler
    answer: type[Message] | str
    body: type[Message] | None = None
    status: int = 200
    errors: tuple[int, ...] = ()
    form: bool = False


CHAT = "/v1/chat/completions"  # for bundles with a language model
_WORK = (400, 404, 408, 413, 429, 503)
ENDPOINTS = (
    Endpoint("POST", "/v1/images/generations", images_api.generations, ImageAnswer, ImageRequest, errors=_WORK),
    Endpoint("POST", "/v1/images/edits", images_api.edits, ImageAnswer, EditRequest, errors=_WORK, form=True),
    Endpoint("POST", CHAT, chat_api.completions, ChatAnswer, ChatRequest, errors=_WORK),
    Endpoint("POST", "/v1/jobs/generations", jobs_api.start_generation, JobAnswer, ImageRequest, 202, _WORK),
    Endpoint("POST", "/v1/jobs/edits", jobs_api.start_edit, JobAnswer, EditRequest, 202, _WORK, form=True),
    Endpoint("GET", "/v1/jobs", jobs_api.list_jobs, JobList),
    Endpoint("GET", "/v1/jobs/{id}", jobs_api.get_job, JobAnswer, errors=(404,)),
    Endpoint("DELETE", "/v1/jobs/{id}", jobs_api.cancel_job, JobAnswer, errors=(404,)),
    Endpoint("GET", "/v1/jobs/{id}/pictures/{index}", jobs_api.get_picture, "image/*", errors=(404,)),
    Endpoint("GET", "/v1/models", service_api.models, ModelList),
    Endpoint("GET", "/v1/models/{name}", service_api.model, Model, errors=(404,)),
    Endpoint("GET", "/health/live", service_api.live, Health, errors=(503,)),
    Endpoint("GET", "/health/ready", service_api.ready, Health, errors=(503,)),
    Endpoint("GET", "/metrics", service_api.metrics, "text/plain"),
)
PAGE = ("/", "/page.css", "/page.js", "/icon.svg")
_REFERENCE = "#/components/schemas/{name}"


def openapi(name: str, endpoints: Sequence[Endpoint] = ENDPOINTS) -> dict[str, object]:
    """OpenAPI 3.1's document of a server for a model."""
    structs: set[type[Message]] = {ErrorAnswer}
    for endpoint in endpoints:
        structs |= {kind for kind in (endpoint.answer, endpoint.body) if isinstance(kind, type)}
    ordered = sorted(structs, key=lambda kind: kind.__name__)
    schemas = msgspec.json.schema_components(ordered, ref_template=_REFERENCE)[1]
    paths: dict[str, dict[str, object]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": f"unipic2-edge: {name}", "version": "1"},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(endpoint: Endpoint, schemas: Mapping[str, Any]) -> dict[str, object]:
    answers: dict[str, object] = {str(endpoint.status): _content(endpoint.answer)}
    answers |= {str(status): _content(ErrorAnswer) for status in (*endpoint.errors, 401, 403)}
    operation: dict[str, object] = {"summary": endpoint.handler.__doc__, "responses": answers}
    if endpoint.body is not None:
        content = {"application/json": {"schema": {"$ref": _REFERENCE.format(name=endpoint.body.__name__)}}}
        if endpoint.form:
            content["multipart/form-data"] = {"schema": _form(schemas[endpoint.body.__name__])}
        operation["requestBody"] = {"required": True, "content": content}
    names = [part.strip("{}") for part in endpoint.path.split("/") if part.startswith("{")]
    if names:
        operation["parameters"] = [
            {
                "name": name,
                "in": "path",
                "required": True,
                "schema": {"type": "integer", "minimum": 0} if name == "index" else {"type": "string"},
            }
            for name in names
        ]
    return operation


def _form(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A body's schema where its picture is a file."""
    picture = {"type": "string", "format": "binary", "description": "a PNG, JPEG or WebP file"}
    properties = {**schema["properties"], "image": picture}
    return {**schema, "title": schema["title"] + "Form", "properties": properties, "required": ["prompt", "image"]}


def _content(kind: type[Message] | str) -> dict[str, object]:
    if isinstance(kind, str):
        return {"description": kind, "content": {kind: {}}}
    schema = {"$ref": _REFERENCE.format(name=kind.__name__)}
    return {"description": (kind.__doc__ or "").strip(), "content": {"application/json": {"schema": schema}}}
