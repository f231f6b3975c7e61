"""The door: who may ask (host, origin, key), how much they may send, and how long they may take to send it."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import anyio

from .limits import Limits
from .metrics import Metrics
from .problems import ApiError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("localhost", "127.0.0.1", "::1")
ANY = "*"  # every host: behind a proxy that checks it, and with a key
#: The page itself and what a supervisor asks need no key: there is nothing of the user's in them.
OPEN = ("/", "/page.css", "/page.js", "/icon.svg", "/health/live", "/health/ready")
_SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]


class Guard:
    """ASGI middleware in front of everything.

    Args:
        app: what is guarded.
        hosts: names under which the server may be asked; others are DNS rebinding.
        key: the API key; None asks for none.
        limits: of bodies.
        metrics: where answers are counted.
    """

    def __init__(self, app: App, hosts: tuple[str, ...], key: str | None, limits: Limits, metrics: Metrics) -> None:
        self._app, self._hosts, self._limits, self._metrics = app, frozenset(hosts), limits, metrics
        self._key = None if key is None else key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, answer = time.perf_counter(), _Answer(send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self._check(scope, headers)
            await self._app(scope, _Body(receive, self._limits), answer)
        except ApiError as problem:
            if answer.status is None:
                await answer.refuse(problem)
        finally:
            path = scope.get("route_path") or "other"
            self._metrics.answers.labels(path, str(answer.status or 499)).inc()
            self._metrics.requests.labels(path).observe(time.perf_counter() - started)

    def _check(self, scope: Scope, headers: dict[str, str]) -> None:
        """Refuse what must not come in.

        Raises:
            ApiError: another host or origin, no key or a wrong one, or a body that says it is too long.
        """
        host = headers.get("host", "")
        if not self._knows(_name(host)):
            raise ApiError(403, "host_not_allowed", f"this server is not {host[:80]!r} (start it with --allow-host)")
        origin = headers.get("origin")
        if origin is not None and not self._same(origin.partition("://")[2].lower(), host.lower()):
            raise ApiError(403, "origin_not_allowed", f"pages of {origin[:80]!r} may not use this server")
        if self._key is not None and scope["path"] not in OPEN and not self._knows_key(headers):
            raise ApiError(401, "invalid_api_key", "send the server's key as Authorization: Bearer KEY")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._limits.body_bytes:
            raise ApiError(413, "body_too_large", f"at most {self._limits.body_bytes / 1e6:.0f} MB are read")

    def _knows(self, host: str) -> bool:
        return host in self._hosts or ANY in self._hosts

    def _same(self, origin: str, host: str) -> bool:
        """A page must be this server's own, port included; or of a host that was allowed by name, whatever its port."""
        return origin == host or _name(origin) in self._hosts.difference(LOOPBACK, (ANY,))

    def _knows_key(self, headers: dict[str, str]) -> bool:
        given = headers.get("authorization", "").removeprefix("Bearer ").encode()
        return hmac.compare_digest(given, self._key or b"")


class _Body:
    """A request's body as it arrives, up to its limits of bytes and seconds."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self._receive, self._left, self._limits = receive, limits.body_bytes, limits
        self._until, self._whole = time.monotonic() + limits.body_seconds, False

    async def __call__(self) -> Message:
        if self._whole:  # from here on only a disconnection can come, and that may take any time
            return await self._receive()
        try:
            with anyio.fail_after(self._until - time.monotonic()):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(408, "body_too_slow", "the request's body came too slowly") from None
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise ApiError(413, "body_too_large", f"at most {self._limits.body_bytes / 1e6:.0f} MB are read")
        self._whole = not message.get("more_body", False)
        return message


class _Answer:
    """The answer on its way out: its status is noted, and headers that every answer has are added."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            message["headers"] = [*message.get("headers", []), *_SECURITY]
        await self._send(message)

    async def refuse(self, problem: ApiError) -> None:
        """Send an error, and close: what is left of a body is not read."""
        body = json.dumps(problem.to_dict()).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(b"connection", b"close")]
        headers += [(name.encode(), value.encode()) for name, value in problem.headers.items()]
        await self({"type": "http.response.start", "status": problem.status, "headers": headers})
        await self({"type": "http.response.body", "body": body})


def _name(host: str) -> str:
    """A host without its port: "127.0.0.1:8000", "[::1]:8000"."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
