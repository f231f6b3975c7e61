"""A chat server on loopback that does what it is told: answers, stalls, talks nonsense, refuses, dies."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Said = tuple[int, str]
"""Status, and the model's words (the body where the status is no 200)."""


class StubJudge:
    """`answer` gets the number of the request and its body; a pause in it is a server that stalls."""

    def __init__(self, answer: Callable[[int, dict[str, Any]], Said], models: list[str], status: int) -> None:
        self.answer, self.models, self.status = answer, models, status
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.lock = threading.Lock()
        self.url = ""

    def reply(self, path: str, key: str | None, body: dict[str, Any] | None) -> Said:
        with self.lock:
            self.keys.append(key)
            if body is not None:
                self.bodies.append(body)
            number = len(self.bodies)
        if body is None:
            return self.status, json.dumps({"data": [{"id": name} for name in self.models]})
        assert path == "/v1/chat/completions"
        status, words = self.answer(number, body)
        made = json.dumps({"choices": [{"message": {"role": "assistant", "content": words}}]})
        return status, made if status == 200 else words


@contextmanager
def stub_judge(
    answer: Callable[[int, dict[str, Any]], Said], models: list[str] | None = None, status: int = 200
) -> Iterator[StubJudge]:
    """Runs while the block does; `status` is of the list of models."""
    stub = StubJudge(answer, ["stub"] if models is None else models, status)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(stub.reply(self.path, self.headers.get("Authorization"), None))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(stub.reply(self.path, self.headers.get("Authorization"), body))

        def _send(self, said: Said) -> None:
            status, text = said
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())
            except OSError:
                pass  # the client has given up

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stub.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()


def scores(**values: float) -> Said:
    """A proper answer."""
    return 200, json.dumps({"reason": "because", **values})


def following(number: int, body: dict[str, Any]) -> Said:
    """A judge that finds all of it well."""
    return scores(prompt_following=8, instruction_following=9, consistency=4)


def stalling(seconds: float) -> Callable[[int, dict[str, Any]], Said]:
    """A judge that is slow to answer."""

    def answer(number: int, body: dict[str, Any]) -> Said:
        time.sleep(seconds)
        return following(number, body)

    return answer
