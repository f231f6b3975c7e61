"""What one request may ask for, and what the server holds at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of a server.

    Attributes:
        body_bytes: of a request's body.
        body_seconds: in which a body must have arrived.
        prompt_characters: of a prompt, and of a negative prompt.
        steps: of the sampler.
        pictures: of one request.
        tokens: of an answer in words.
        waiting: jobs in the queue; the next one is refused.
        batch: pictures that are made together, at most.
        seconds: from a request's arrival to its pictures; afterwards it is given up.
        kept_seconds: how long a finished job can be asked for.
        kept_jobs: how many finished jobs are kept, at most.
        drain_seconds: how long a server that is told to stop goes on with what it has.
    """

    body_bytes: int = 28_000_000
    body_seconds: float = 20.0
    prompt_characters: int = 4_000
    steps: int = 100
    pictures: int = 10
    tokens: int = 1024
    waiting: int = 64
    batch: int = 4
    seconds: float = 300.0
    kept_seconds: float = 600.0
    kept_jobs: int = 128
    drain_seconds: float = 30.0
