"""Clients of a server under load: many at once, and a good one beside slow ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import numpy as np

CLIENT_SECONDS = 600
PROMPT = "a red circle"
_PATH = "/v1/images/generations"
_SMALL = 300
_WARM = 20


@dataclass(frozen=True)
class Answer:
    """A status ("hung" where none came, or the error's name), seconds until it was there, and the picture."""

    status: str
    seconds: float
    picture: str = ""


def body(seed: int, steps: int) -> dict[str, object]:
    """A generation's request."""
    return {"prompt": PROMPT, "seed": seed, "num_inference_steps": steps}


async def ask_all(url: str, steps: int, seeds: range) -> list[Answer]:
    """Every seed's picture, asked for at once."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=CLIENT_SECONDS, limits=limits, trust_env=False) as client:
        return await asyncio.gather(*(_ask(client, steps, seed) for seed in seeds))


async def _ask(client: httpx.AsyncClient, steps: int, seed: int) -> Answer:
    start = time.perf_counter()
    try:
        answer = await client.post(_PATH, json=body(seed, steps))
    except httpx.TimeoutException:
        return Answer("hung", time.perf_counter() - start)
    except httpx.TransportError as error:
        return Answer(type(error).__name__, time.perf_counter() - start)
    picture = answer.json()["data"][0]["b64_json"] if answer.status_code == 200 else ""
    return Answer(str(answer.status_code), time.perf_counter() - start, picture)


async def slowed(url: str, count: int) -> float:
    """The 99th percentile of a good client's small requests beside slow ones, over that without them."""
    without = await _small_requests(url)
    async with _slow_clients(url, count):
        beside = await _small_requests(url)
    return float(np.percentile(beside, 99) / np.percentile(without, 99))


@asynccontextmanager
async def _slow_clients(url: str, count: int) -> AsyncIterator[None]:
    """Half of them stop within the head of a request, half within its body."""
    host, _, port = url.removeprefix("http://").partition(":")
    head = f"POST {_PATH} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 99\r\n"
    writers = []
    for number in range(count):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write((head + ("\r\n{" if number % 2 else "")).encode())
        writers.append(writer)
    try:
        yield
    finally:
        for writer in writers:
            writer.close()


async def _small_requests(url: str) -> list[float]:
    seconds = []
    async with httpx.AsyncClient(base_url=url, timeout=CLIENT_SECONDS, trust_env=False) as client:
        for _ in range(_SMALL):
            start = time.perf_counter()
            await client.get("/v1/models")
            seconds.append(time.perf_counter() - start)
    return seconds[_WARM:]
