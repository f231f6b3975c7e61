"""The process: where it listens, how it starts, and how it stops when it is told to."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from ..bundle import Bundle
from ..errors import DeviceLostError, RequestError
from ..pipeline import Pipeline
from .app import make_app
from .connection import Connection
from .guard import LOOPBACK
from .limits import Limits
from .state import State

logger = logging.getLogger(__name__)
_KEEP_ALIVE = 30
_LONGEST_HEADERS = 16_384


@dataclass(frozen=True)
class Place:
    """Where a server listens, who may ask it, and with which key."""

    host: str = "127.0.0.1"
    port: int = 8000
    key: str | None = None
    allowed_hosts: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse to be open to a network without a key.

        Raises:
            RequestError: not loopback, and no key; or a port that is none.
        """
        if not 0 <= self.port <= 65535:
            raise RequestError(f"{self.port} is no port", "use 1 to 65535, or 0 for any that is free")
        if not self.loopback and not self.key:
            raise RequestError(
                f"{self.host} can be reached by others, and there is no key",
                "give --api-key, or serve on 127.0.0.1",
            )
        if self.key is not None and not (self.key.isascii() and self.key.isprintable()):
            raise RequestError("the key has characters that no header carries", "use letters, digits and signs")

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names under which it may be asked."""
        return (*LOOPBACK, self.host.lower(), *(name.lower() for name in self.allowed_hosts))


@dataclass(frozen=True)
class Opening:
    """How the bundle is opened (see `Pipeline.load`)."""

    device: str = "auto"
    threads: int | None = None
    memory: str | None = None
    fallback: bool = False


def serve(folder: Path, place: Place, opening: Opening, limits: Limits) -> None:
    """Serve a bundle until SIGINT or SIGTERM; what is queued is finished first.

    A device that is lost for this process ends it, and the same command starts anew in its place.

    Raises:
        RequestError: an unsafe place, or a port that is taken.
        BundleError, WorkError: the bundle cannot be opened.
        DeviceLostError: the device is lost, where a process cannot take another's place (Windows).
    """
    place.check()
    bundle = Bundle(folder)

    def load() -> Pipeline:
        return Pipeline.load(folder, opening.device, opening.threads, opening.memory, opening.fallback)

    load().close()  # what is wrong with it is said before anything listens
    state = State(bundle.manifest, load, limits)
    try:
        Server(state, place).run()
    except SystemExit as error:  # uvicorn's way to say that it could not listen; its log says why
        raise RequestError(f"{place.host}:{place.port} cannot be listened on", "use another --port") from error
    if state.worker.lost:
        _start_anew()


def _start_anew() -> None:
    """The same command in this process' place: within one, a failed CUDA context fails for ever.

    Source: CUDA Runtime API, "error handling": "the process must be terminated and relaunched".
    """
    if os.name != "posix":
        raise DeviceLostError("the device is lost", "start the server again")
    logger.warning("the device is lost: starting anew")
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


class Server(uvicorn.Server):
    """Says on stderr where it can be reached, once it can; stops when its device is lost."""

    def __init__(self, state: State, place: Place) -> None:
        super().__init__(configuration(state, place))
        self._state = state

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to stop."""
        return self._state.worker.lost or await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take nothing new, finish what is there."""
        self._state.drain()
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                host, port = listening.getsockname()[:2]
                shown = f"[{host}]" if ":" in host else host
                print(f"http://{shown}:{port} is ready (Ctrl-C stops)", file=sys.stderr, flush=True)


def configuration(state: State, place: Place) -> uvicorn.Config:
    """uvicorn's settings."""
    return uvicorn.Config(
        make_app(state, place.hosts, place.key),
        host=place.host,
        port=place.port,
        http=Connection,
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        h11_max_incomplete_event_size=_LONGEST_HEADERS,
        timeout_graceful_shutdown=int(state.limits.drain_seconds),
        log_level="warning",
    )
