"""A peer at work in an interpreter of its own: JSON lines in and out, arrays as .npy files beside them.

    python -m unipic2_edge.bench.peers.guest MODULE

    {"do": "open", "settings": {…}}                             → {"about": {…}, "seconds": 1.5}
    {"do": "make", "job": {"task": "generate", …}, "arrays": {"latents": "/tmp/x/latents.npy"}, "folder": "/tmp/x"}
                                                                → {"seconds": 0.2, "arrays": {"picture": "…"}}

An answer {"cannot": "why"} tells what could not be done. Seconds are taken here, around the peer's work alone. Only the
standard library, numpy and what MODULE needs must be there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np

from .peer import CannotError, Job, Made, Peer

#: The fields of a job, and of what is made, that are arrays.
JOB_ARRAYS = ("latents", "source", "context", "pooled")
MADE_ARRAYS = ("latents", "picture")

Opener = Callable[[dict[str, Any]], Peer]


def save_arrays(owner: Job | Made, names: Iterable[str], folder: Path, prefix: str) -> dict[str, str]:
    """Write the arrays that an object has; their files by name."""
    files = {}
    for name in names:
        array = getattr(owner, name)
        if array is not None:
            path = folder / f"{prefix}-{name}.npy"
            np.save(path, array)
            files[name] = str(path)
    return files


def load_arrays(files: dict[str, str]) -> dict[str, Any]:
    """Arrays by name, of their files."""
    return {name: np.load(path, allow_pickle=False) for name, path in files.items()}


def timed(peer: Peer, job: Job) -> tuple[Made, float]:
    """What a peer made of a job, and its seconds: the one place where a peer's work is timed."""
    start = peer.clock()
    made = peer.make(job)
    return made, peer.clock() - start


def said(error: BaseException) -> str:
    """An error in one line, the class named where its words alone say little."""
    words = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    plain = isinstance(error, CannotError) or hasattr(error, "problem")  # `UserError`, which is not at home here
    return words if plain and words else f"{type(error).__name__}: {words}".rstrip(": ")


def serve(opener: Opener, requests: Iterable[str], answers: IO[str]) -> None:
    """Answer requests, a line each, until there are no more."""
    peer: Peer | None = None
    for line in requests:
        request = json.loads(line)
        try:
            if request["do"] == "open":
                start = time.perf_counter()
                peer = opener(request["settings"])
                answer: dict[str, Any] = {"seconds": time.perf_counter() - start, "about": dict(peer.about())}
            elif peer is None:
                raise CannotError("it was never opened")
            else:
                answer = _make(peer, request)
        except Exception as error:  # whatever a library raises is a peer's answer
            answer = {"cannot": said(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    if peer is not None:
        peer.close()


def _make(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    job = Job(**request["job"], **load_arrays(request["arrays"]))
    made, seconds = timed(peer, job)
    return {"seconds": seconds, "arrays": save_arrays(made, MADE_ARRAYS, Path(request["folder"]), "made")}


def main() -> None:
    """Keep stdout for the answers: what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    name = sys.argv[1]

    def opener(settings: dict[str, Any]) -> Peer:
        peer: Peer = import_module(name).open_peer(settings)
        return peer

    serve(opener, sys.stdin, answers)


if __name__ == "__main__":
    main()
