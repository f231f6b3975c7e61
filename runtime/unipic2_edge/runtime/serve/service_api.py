"""`/v1/models`, `/health`, `/metrics` and the page's files."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from .images_api import json_answer
from .messages import Health, Model, ModelList
from .problems import ApiError
from .state import State

_MEDIA = {
    "": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
#: Nothing from elsewhere, nothing inline; pictures come as data and blobs.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)


async def models(request: Request) -> Response:
    """The one model."""
    return json_answer(ModelList(data=[_model(request.app.state.server)]))


async def model(request: Request) -> Response:
    """The model by its name."""
    found, name = _model(request.app.state.server), request.path_params["name"]
    if name != found.id:
        raise ApiError(404, "model_not_found", f"there is no model {name[:60]!r}; it is {found.id}", "model")
    return json_answer(found)


def _model(state: State) -> Model:
    manifest = state.manifest
    cell = manifest.latents.factor * manifest.latents.patch_size
    sizes = f"multiples of {cell} up to {cell * manifest.positions.max_size}"
    return Model(
        id=manifest.name,
        created=state.created,
        recipe=manifest.recipe,
        tasks=sorted([*manifest.defaults, *(["describe"] if manifest.query is not None else [])]),
        sizes=sizes,
    )


async def live(request: Request) -> Response:
    """The process answers, and can still come to work: without its device for good, only a new one can."""
    lost = request.app.state.server.worker.lost
    return json_answer(Health(status="lost" if lost else "live"), 503 if lost else 200)


async def ready(request: Request) -> Response:
    """The device works, and requests are taken."""
    state: State = request.app.state.server
    status = "ready" if state.ready else "stopping" if state.draining else "not ready"
    return json_answer(Health(status=status, waiting=len(state.backlog)), 200 if state.ready else 503)


async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    state: State = request.app.state.server
    return Response(state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def page(request: Request) -> Response:
    """The page, and its style and script."""
    name = request.url.path.lstrip("/")
    content = _file(name or "index.html")
    return Response(content, headers={"Content-Security-Policy": _POLICY, "Content-Type": _MEDIA[name]})


@cache
def _file(name: str) -> bytes:
    return (files("unipic2_edge.runtime.serve") / "page" / name).read_bytes()
