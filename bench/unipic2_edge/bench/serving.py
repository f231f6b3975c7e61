"""`bench serve`: a server in a process of its own under load, against the bare pipeline on the same machine in one run.

unipic2-edge bench serve BUNDLE --requests 1000 -o bench/results/<machine>/serve.json
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from unipic2_edge.runtime.pipeline import Pipeline

from .attacks import attacked
from .server_process import server
from .statistics import Spread, ratios, spread

Advance = Callable[[str], None]
_PROMPT = "a red circle"
_CLIENT_SECONDS = 600
_WARM = 20


@dataclass(frozen=True)
class Settings:
    """How much load.

    Attributes:
        requests: at once in the crowd, and one after another in the endurance run.
        steps: of the sampler; None is the bundle's.
        pictures: for each measurement of speed.
        rounds: of the comparison with the bare pipeline.
        batch: of the server that batches.
        threads: CPU threads of both sides.
        slow: clients that send nothing more, beside a good one.
    """

    requests: int
    steps: int
    pictures: int
    rounds: int
    batch: int
    threads: int
    slow: int


@dataclass(frozen=True)
class Crowd:
    """Many requests at once: answers by status, those that never came, and seconds of the good ones."""

    statuses: dict[str, int]
    hung: int
    seconds: dict[str, float]


@dataclass(frozen=True)
class Served:
    """A server under load.

    Attributes:
        bare: pictures a second of the pipeline alone.
        single: of a server that makes one picture at a time, and batched: of one that batches.
        single_ratio, batched_ratio: over the bare pipeline's, round by round.
        same_bytes: whether pictures of the same seeds were the same alone and in the crowd.
        crowd: all requests at once.
        growth_per_request: resident bytes that a request leaves behind: a line through the second half of a run.
        threads, files: of the server before and after it.
        slow_ratio: a good client's 99th percentile beside slow ones over that without them.
        attacks: what was sent that must not be read → the status, and bytes by which the server's peak grew.
    """

    bare: Spread
    single: Spread
    batched: Spread
    single_ratio: Spread
    batched_ratio: Spread
    same_bytes: bool
    crowd: Crowd
    growth_per_request: float
    threads: tuple[int, int]
    files: tuple[int, int]
    slow_ratio: float
    attacks: dict[str, tuple[str, float]]


def measure(folder: Path, settings: Settings, done: Advance = lambda name: None) -> Served:
    """All measurements, the server's process anew for each kind.

    Raises:
        WorkError: the server does not start.
    """
    bare, single, batched = _speeds(folder, settings, done)
    threads = ("--threads", str(settings.threads))
    with server(folder, *threads, "--batch", str(settings.batch)) as (url, process):
        same = _same_bytes(url, settings)
        crowd = asyncio.run(_crowd(url, settings))
        done("crowd")
        before = process.num_threads(), process.num_fds()
        growth = _endurance(url, process, settings)
        done("endurance")
        after = process.num_threads(), process.num_fds()
        slow = asyncio.run(_beside_slow_clients(url, settings))
        done("slow clients")
        attacks = dict(attacked(url))
        done("attacks")
    return Served(
        spread(bare),
        spread(single),
        spread(batched),
        ratios(single, bare),
        ratios(batched, bare),
        same,
        crowd,
        growth,
        (before[0], after[0]),
        (before[1], after[1]),
        slow,
        attacks,
    )


def _speeds(folder: Path, settings: Settings, done: Advance) -> tuple[list[float], list[float], list[float]]:
    """Pictures a second of the pipeline, of a server one by one and of one that batches, turn about."""
    pipeline = Pipeline.load(folder, "auto", settings.threads)
    bare: list[float] = []
    single: list[float] = []
    batched: list[float] = []
    threads = ("--threads", str(settings.threads))
    with (
        server(folder, *threads, "--batch", "1") as (one, _),
        server(folder, *threads, "--batch", str(settings.batch)) as (many, _),
    ):
        for url in (one, many):
            asyncio.run(_ask_all(url, settings, range(settings.batch)))
        pipeline.generate(_PROMPT, seed=0, num_inference_steps=settings.steps)
        for _ in range(settings.rounds):
            bare.append(_per_second(settings, lambda: _alone(pipeline, settings)))
            single.append(_per_second(settings, lambda: _together(one, settings)))
            batched.append(_per_second(settings, lambda: _together(many, settings)))
            done("round")
    pipeline.close()
    return bare, single, batched


def _per_second(settings: Settings, work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return settings.pictures / (time.perf_counter() - start)


def _alone(pipeline: Pipeline, settings: Settings) -> None:
    for seed in range(settings.pictures):
        pipeline.generate(_PROMPT, seed=seed, num_inference_steps=settings.steps)


def _together(url: str, settings: Settings) -> None:
    asyncio.run(_ask_all(url, settings, range(settings.pictures)))


def _body(settings: Settings, seed: int) -> dict[str, Any]:
    return {"prompt": _PROMPT, "seed": seed, "num_inference_steps": settings.steps}


async def _ask(client: httpx.AsyncClient, settings: Settings, seed: int) -> tuple[str, float, str]:
    """Status ("hung" where there is none), seconds, and the picture."""
    start = time.perf_counter()
    try:
        answer = await client.post("/v1/images/generations", json=_body(settings, seed))
    except httpx.TimeoutException:
        return "hung", time.perf_counter() - start, ""
    except httpx.TransportError as error:
        return type(error).__name__, time.perf_counter() - start, ""
    picture = answer.json()["data"][0]["b64_json"] if answer.status_code == 200 else ""
    return str(answer.status_code), time.perf_counter() - start, picture


async def _ask_all(url: str, settings: Settings, seeds: range) -> list[tuple[str, float, str]]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=_CLIENT_SECONDS, limits=limits, trust_env=False) as client:
        return await asyncio.gather(*(_ask(client, settings, seed) for seed in seeds))


def _same_bytes(url: str, settings: Settings) -> bool:
    """Whether the crowd gets what one gets who asks alone."""
    seeds = range(2 * settings.batch)
    alone = [asyncio.run(_ask_all(url, settings, range(seed, seed + 1)))[0][2] for seed in seeds]
    together = [picture for _, _, picture in asyncio.run(_ask_all(url, settings, seeds))]
    return all(alone) and alone == together


async def _crowd(url: str, settings: Settings) -> Crowd:
    answers = await _ask_all(url, settings, range(settings.requests))
    statuses = Counter(status for status, _, _ in answers)
    good = [seconds for status, seconds, _ in answers if status == "200"]
    points = {f"p{at}": round(float(np.percentile(good, at)), 4) for at in (50, 90, 99)} if good else {}
    return Crowd(dict(statuses), statuses.pop("hung", 0), points)


def _endurance(url: str, process: psutil.Process, settings: Settings) -> float:
    """Bytes of growth a request: a line through the resident size over the second half of the requests."""
    sizes = []
    with httpx.Client(base_url=url, timeout=_CLIENT_SECONDS, trust_env=False) as client:
        for seed in range(settings.requests + _WARM):
            client.post("/v1/images/generations", json=_body(settings, seed) | {"num_inference_steps": 1})
            sizes.append(process.memory_info().rss)
    late = sizes[len(sizes) // 2 :]
    return float(np.polyfit(np.arange(len(late)), late, 1)[0])


async def _beside_slow_clients(url: str, settings: Settings) -> float:
    """The 99th percentile of a small request beside slow clients, over that without them."""
    without = await _small_requests(url)
    host, _, port = url.removeprefix("http://").partition(":")
    slow = []
    for _ in range(settings.slow):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"POST /v1/images/generations HTTP/1.1\r\nHost: {host}\r\nContent-Length: 99\r\n\r\n{{".encode())
        slow.append(writer)
    beside = await _small_requests(url)
    for writer in slow:
        writer.close()
    return float(np.percentile(beside, 99) / np.percentile(without, 99))


async def _small_requests(url: str) -> list[float]:
    seconds = []
    async with httpx.AsyncClient(base_url=url, timeout=_CLIENT_SECONDS, trust_env=False) as client:
        for _ in range(300):
            start = time.perf_counter()
            await client.get("/v1/models")
            seconds.append(time.perf_counter() - start)
    return seconds[_WARM:]


def served_lines(served: Served) -> list[str]:
    """The measurements for people."""
    crowd = ", ".join(f"{count} × {status}" for status, count in sorted(served.crowd.statuses.items()))
    points = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in served.crowd.seconds.items())
    return [
        f"pictures a second: {served.bare.median:.2f} of the pipeline alone; served one by one "
        f"{_times(served.single_ratio)} of that, batched {_times(served.batched_ratio)}",
        f"the same seeds {'gave' if served.same_bytes else 'did NOT give'} the same bytes alone and together",
        f"all at once: {crowd}, {served.crowd.hung} hung; {points}",
        f"one after another: {served.growth_per_request:.0f} bytes of growth a request, threads "
        f"{served.threads[0]} → {served.threads[1]}, files {served.files[0]} → {served.files[1]}",
        f"a good client's p99 beside slow ones: {served.slow_ratio:.2f} of that without them",
        *(
            f"{name}: {status}, the peak grew by {grown / 1e6:.1f} MB"
            for name, (status, grown) in served.attacks.items()
        ),
    ]


def _times(ratio: Spread) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"


def served_record(served: Served) -> dict[str, object]:
    """JSON-ready fields."""
    return asdict(served)


def usual_threads() -> int:
    """One thread per physical core."""
    return psutil.cpu_count(logical=False) or os.cpu_count() or 1
