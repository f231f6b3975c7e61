"""A server in a process of its own, as a user starts one."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import psutil

from unipic2_edge.runtime.errors import WorkError

_START_SECONDS = 120
_POLL_SECONDS = 0.1


@contextmanager
def server(folder: Path, *options: str) -> Iterator[tuple[str, psutil.Process]]:
    """A server on a free port, and its process; stopped at the end.

    Raises:
        WorkError: it does not start.
    """
    command = [sys.executable, "-m", "unipic2_edge.runtime.cli", "serve", str(folder), "--port", "0", *options]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stderr=log)
        try:
            yield _address(process, log), psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(60)


def _address(process: subprocess.Popen[bytes], log: TextIO) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        log.seek(0)
        found = next((line.split()[0] for line in log if line.startswith("http://")), None)
        if found is not None:
            return found
        time.sleep(_POLL_SECONDS)
    raise WorkError("the server did not start", "run unipic2-edge serve by hand and see what it says")
