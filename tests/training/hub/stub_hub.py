"""A stand-in for the hub on loopback, with what huggingface_hub asks of it, and with what can go wrong."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote

LARGE = 1000  # bytes from which a file is kept as the hub keeps large ones: by SHA-256, on another address


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class StubRepository:
    """Files at one commit, and how the hub answers for them."""

    files: dict[str, bytes]
    branch: str = "main"
    refusal: tuple[int, str] | None = None  # status and error code
    token: str | None = None  # who may read it
    commit: str = field(init=False)

    def __post_init__(self) -> None:
        names = "".join(f"{name}{git_hash(data)}" for name, data in sorted(self.files.items()))
        self.commit = hashlib.sha1(names.encode()).hexdigest()


@dataclass
class StubHub:
    """What is served, what is asked for, and what goes wrong once."""

    repositories: dict[str, StubRepository] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)  # path → the connection ends after so many bytes, once
    damaged: set[str] = field(default_factory=set)  # paths whose bytes arrive changed
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, Range
    url: str = ""
    down: bool = False
    down_after_cut: bool = False
    foreign: bool = False  # it is no hub: a portal that wants a login, say

    def downloads(self) -> list[str]:
        """The names of the files whose bytes were asked for."""
        return [path.rpartition("/")[2] for method, path, _ in self.asked if method == "GET" and "/api/" not in path]


class Handler(BaseHTTPRequestHandler):
    hub: StubHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.asked.append((self.command, path, self.headers.get("Range")))
        parts = path.strip("/").split("/")
        if self.hub.down:
            self._refuse(503, "")
        elif self.hub.foreign:
            self._send(200, {"Content-Type": "text/html"}, b"<html>please log in</html>")
        elif parts[:2] == ["api", "models"]:
            self._api("/".join(parts[2:4]), parts[4:])
        elif parts[0] == "large":
            self._bytes("/".join(parts[1:3]), "/".join(parts[3:]))
        elif parts[2] == "resolve":
            self._resolve("/".join(parts[:2]), "/".join(parts[4:]))

    def _allowed(self, name: str) -> StubRepository | None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._refuse(404, "RepoNotFound")
        elif repository.refusal is not None:
            self._refuse(*repository.refusal)
        elif repository.token is not None and self.headers.get("Authorization") != f"Bearer {repository.token}":
            self._refuse(401, "RepoNotFound")
        else:
            return repository
        return None

    def _api(self, name: str, rest: list[str]) -> None:
        repository = self._allowed(name)
        if repository is None:
            return
        revision = rest[1] if len(rest) > 1 else "main"
        if revision not in (repository.branch, repository.commit):
            self._refuse(404, "RevisionNotFound")
        elif rest[:1] == ["tree"]:
            self._json([_entry(path, data) for path, data in repository.files.items()])
        else:
            self._json({"id": name, "sha": repository.commit, "siblings": []})

    def _resolve(self, name: str, path: str) -> None:
        repository = self._allowed(name)
        if repository is None:
            return
        data = repository.files.get(path)
        if data is None:
            self._refuse(404, "EntryNotFound")
            return
        headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{git_hash(data)}"'}
        if len(data) < LARGE:
            self._bytes(name, path, headers)
            return
        headers |= {
            "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Linked-Size": str(len(data)),
            "Location": f"{self.hub.url}/large/{name}/{path}".replace("127.0.0.1", "localhost"),
        }
        self._send(302, headers, b"")

    def _bytes(self, name: str, path: str, headers: dict[str, str] | None = None) -> None:
        whole = self.hub.repositories[name].files[path]
        if path in self.hub.damaged:
            whole = whole[:-1] + bytes([whole[-1] ^ 1])
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        extra = {"Content-Range": f"bytes {start}-{len(whole) - 1}/{len(whole)}"} if start else {}
        self._send(206 if start else 200, (headers or {}) | extra, whole[start:], path)

    def _json(self, content: object) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(content).encode())

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, {"X-Error-Code": code, "X-Error-Message": "refused"} if code else {}, b"")

    def _send(self, status: int, headers: dict[str, str], body: bytes, path: str = "") -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        limit = self.hub.cut.pop(path, None)
        self.wfile.write(body[:limit])
        if limit is not None:
            self.hub.down = self.hub.down_after_cut
            self.close_connection = True


def _entry(path: str, data: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(data), "oid": git_hash(data)}
    if len(data) >= LARGE:
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry
