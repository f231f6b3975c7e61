"""The ASGI application: routes, errors in OpenAI's form, the worker's life, and the guard in front."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .endpoints import CHAT, ENDPOINTS, PAGE, Handler, openapi
from .guard import LOOPBACK, App, Guard
from .images_api import json_answer
from .problems import ApiError
from .service_api import page
from .state import State

logger = logging.getLogger(__name__)


def make_app(state: State, hosts: tuple[str, ...] = LOOPBACK, key: str | None = None, jobs: bool = True) -> App:
    """The application of a server.

    Args:
        state: what it serves.
        hosts: the names under which it may be asked.
        key: the API key, or None.
        jobs: whether it has the endpoints of jobs, which live in this process.
    """
    application = Starlette(
        routes=_routes(state, jobs),
        lifespan=_lifespan(state),
        exception_handlers={
            ApiError: _problem,
            HTTPException: _refused,
            ClientDisconnect: _gone,
            Exception: _failed,
        },
    )
    application.state.server = state
    return Guard(application, hosts, key, state.limits, state.metrics)


def _routes(state: State, jobs: bool) -> list[Route]:
    offered = {CHAT: state.manifest.query is not None}
    endpoints = [
        endpoint
        for endpoint in ENDPOINTS
        if offered.get(endpoint.path, jobs or not endpoint.path.startswith("/v1/jobs"))
    ]
    document = openapi(state.manifest.name, endpoints)

    async def describe(request: Request) -> Response:
        """OpenAPI's document."""
        return json_answer(document)

    handlers = [(endpoint.path, endpoint.method, endpoint.handler) for endpoint in endpoints]
    handlers += [(path, "GET", page) for path in PAGE]
    handlers.append(("/openapi.json", "GET", describe))
    return [
        Route(path.replace("{index}", "{index:int}"), _noted(path, handler), methods=[method])
        for path, method, handler in handlers
    ]


def _noted(path: str, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """The handler, with its route's path written where the guard counts answers by it."""

    async def noted(request: Request) -> Response:
        request.scope["route_path"] = path
        return await handler(request)

    return noted


def _lifespan(state: State) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def life(application: Starlette) -> AsyncIterator[None]:
        await anyio.to_thread.run_sync(state.worker.start)
        try:
            yield
        finally:
            await anyio.to_thread.run_sync(state.worker.stop, state.drain_seconds_left)

    return life


async def _problem(request: Request, error: Exception) -> Response:
    if not isinstance(error, ApiError):
        raise error
    return JSONResponse(error.to_dict(), error.status, error.headers)


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    names = {404: "not_found", 405: "method_not_allowed"}
    problem = ApiError(error.status_code, names.get(error.status_code, "invalid_request"), str(error.detail))
    return JSONResponse(problem.to_dict(), problem.status, error.headers)


async def _gone(request: Request, error: Exception) -> Response:
    """Nobody reads this any more."""
    return Response(status_code=499)


async def _failed(request: Request, error: Exception) -> Response:
    logger.error("%s failed", request.url.path, exc_info=error)
    problem = ApiError(500, "internal_error", "the server failed; its log has more")
    return JSONResponse(problem.to_dict(), problem.status)
