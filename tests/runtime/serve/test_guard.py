"""The door: hosts, origins, keys, sizes and slowness."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from unipic2_edge.runtime.bundle import Manifest
from unipic2_edge.runtime.cli import main
from unipic2_edge.runtime.errors import RequestError
from unipic2_edge.runtime.serve.connection import Connection
from unipic2_edge.runtime.serve.server import Place

from .conftest import QUICK, FakePipeline, Running, running


def test_another_host_is_refused(server: Running) -> None:
    with server.client() as client:
        assert client.get("/v1/models", headers={"host": "evil.example"}).status_code == 403
        assert client.get("/v1/models", headers={"host": "localhost:1"}).status_code == 200


def test_pages_from_elsewhere_are_refused(server: Running) -> None:
    with server.client() as client:
        for origin, status in (
            ("https://evil.example", 403),
            ("null", 403),
            ("http://127.0.0.1:1", 403),  # another server on this machine
            (server.url, 200),
        ):
            assert client.get("/v1/models", headers={"origin": origin}).status_code == status
        assert "access-control-allow-origin" not in client.get("/v1/models").headers


@pytest.fixture
def locked(manifest: Manifest, fake: FakePipeline) -> Iterator[Running]:
    place = Place(port=0, key="a key", allowed_hosts=("Box.Local",))
    with running(manifest, lambda: fake, QUICK, place) as made:
        yield made


def test_a_key_is_asked_for(locked: Running) -> None:
    with locked.client() as client:
        for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer"}):
            answer = client.get("/v1/models", headers=header)
            assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
        assert client.get("/metrics").status_code == 401
        assert client.get("/v1/models", headers={"authorization": "Bearer a key"}).status_code == 200
        assert client.get("/", headers={"host": "box.local:80"}).status_code == 200
        assert client.get("/health/live").status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "::", "box.local"])
def test_an_open_door_needs_a_key(host: str) -> None:
    with pytest.raises(RequestError, match="there is no key"):
        Place(host).check()
    Place(host, key="a key").check()


def test_the_command_refuses_an_open_door(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    assert main(["serve", str(tmp_path), "--host", "0.0.0.0"]) == 2
    assert "give --api-key" in capsys.readouterr().err


def _raw(server: Running, head: str, body: bytes = b"") -> socket.socket:
    host, _, port = server.url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(f"{head}\r\nHost: {host}\r\n\r\n".encode() + body)
    return connection


def test_a_body_that_says_it_is_too_long_is_not_read(server: Running) -> None:
    with _raw(server, "POST /v1/images/generations HTTP/1.1\r\nContent-Length: 300000000") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_a_body_that_does_not_say_so_is_read_up_to_the_limit(manifest: Manifest, fake: FakePipeline) -> None:
    with running(manifest, lambda: fake, replace(QUICK, body_bytes=10_000)) as server:
        head = "POST /v1/images/generations HTTP/1.1\r\nTransfer-Encoding: chunked"
        with _raw(server, head, b"4e20\r\n" + b"x" * 20_000 + b"\r\n") as connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_a_body_that_comes_too_slowly_is_given_up(manifest: Manifest, fake: FakePipeline) -> None:
    with running(manifest, lambda: fake, replace(QUICK, body_seconds=0.3)) as server:
        start = time.monotonic()
        with _raw(server, "POST /v1/images/generations HTTP/1.1\r\nContent-Length: 100", b"{") as connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - start < 5


@pytest.mark.parametrize("before", [b"", b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_a_head_that_comes_too_slowly_is_given_up(
    server: Running, monkeypatch: pytest.MonkeyPatch, before: bytes
) -> None:
    monkeypatch.setattr(Connection, "head_seconds", 0.4)
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        start = time.monotonic()
        if before:
            connection.sendall(before)
            assert b"200 OK" in connection.recv(1000)
        with pytest.raises(ConnectionError):
            while time.monotonic() - start < 8:  # drop by drop
                connection.sendall(b"GET" if before else b"X")
                time.sleep(0.05)
        assert time.monotonic() - start < 5


def test_the_page_allows_nothing_from_elsewhere(server: Running) -> None:
    with server.client() as client:
        page = client.get("/")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        for name in ("/page.js", "/page.css", "/icon.svg"):
            assert client.get(name).status_code == 200
        assert page.headers["x-content-type-options"] == "nosniff"


def test_clients_that_vanish_leave_no_noise(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    _raw(server, "POST /v1/images/generations HTTP/1.1\r\nContent-Length: 100", b"{").close()
    with server.client() as client:
        for _ in range(3):
            assert client.get("/health/live").status_code == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
