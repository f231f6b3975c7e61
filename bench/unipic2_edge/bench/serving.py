"""`bench serve`: a server in a process of its own under load, against the bare pipeline on the same machine in one run.

unipic2-edge bench serve BUNDLE --requests 1000 -o bench/results/<machine>/serve.json
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil

from unipic2_edge.runtime.pipeline import Pipeline

from .attacks import Attack, attacked
from .clients import CLIENT_SECONDS, PROMPT, Answer, ask_all, body, slowed
from .server_process import server
from .statistics import Spread, ratios, spread

Advance = Callable[[str], None]
_PATH = "/v1/images/generations"
_WARM = 20


@dataclass(frozen=True)
class Settings:
    """How much load.

    Attributes:
        requests: at once in the crowd, and one after another in the endurance run.
        steps: of the sampler.
        pictures: for each measurement of speed.
        rounds: of the comparison with the bare pipeline, and of a good client beside slow ones.
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
class Speed:
    """Pictures a second, and the processor's seconds for each (of the process that makes them)."""

    per_second: list[float]
    processor: list[float]


@dataclass(frozen=True)
class Served:
    """A server under load.

    Attributes:
        bare: pictures a second of the pipeline alone.
        single: of a server that makes one picture at a time, and batched: of one that batches.
        single_ratio, batched_ratio: over the bare pipeline's, round by round.
        processor_seconds: the processor's seconds for a picture, by who made it: what the clock cannot tell on a
            machine that others use as well.
        single_work, batched_work: the bare pipeline's processor seconds over theirs, round by round.
        same_bytes: whether pictures of the same seeds were the same alone and in the crowd.
        crowd: all requests at once.
        growth_per_request: resident bytes that a request leaves behind: a line through the second half of a run.
        threads, files: of the server before and after it.
        slow_ratio: a good client's 99th percentile beside slow ones over that without them.
        attacks: what was sent that must not be read, to a fresh server.
    """

    bare: Spread
    single: Spread
    batched: Spread
    single_ratio: Spread
    batched_ratio: Spread
    processor_seconds: dict[str, Spread]
    single_work: Spread
    batched_work: Spread
    same_bytes: bool
    crowd: Crowd
    growth_per_request: float
    threads: tuple[int, int]
    files: tuple[int, int]
    slow_ratio: Spread
    attacks: dict[str, Attack]


def measure(folder: Path, settings: Settings, done: Advance = lambda name: None) -> Served:
    """All measurements, the server's process anew for each kind.

    Raises:
        WorkError: the server does not start.
    """
    bare, single, batched = _speeds(folder, settings, done)
    with server(folder, *_options(settings, settings.batch)) as (url, process):
        same = _same_bytes(url, settings)
        crowd = asyncio.run(_crowd(url, settings))
        done("crowd")
        growth, before, after = _endurance(url, process, settings)
        done("endurance")
        slow = [asyncio.run(slowed(url, settings.slow)) for _ in range(settings.rounds)]
        done("slow clients")
    with server(folder, *_options(settings, settings.batch)) as (url, process):
        attacks = dict(attacked(url, process))
        done("attacks")
    return Served(
        bare=spread(bare.per_second),
        single=spread(single.per_second),
        batched=spread(batched.per_second),
        single_ratio=ratios(single.per_second, bare.per_second),
        batched_ratio=ratios(batched.per_second, bare.per_second),
        processor_seconds={
            name: spread(speed.processor)
            for name, speed in (("bare", bare), ("one by one", single), ("batched", batched))
        },
        single_work=ratios(bare.processor, single.processor),
        batched_work=ratios(bare.processor, batched.processor),
        same_bytes=same,
        crowd=crowd,
        growth_per_request=growth,
        threads=(before[0], after[0]),
        files=(before[1], after[1]),
        slow_ratio=spread(slow),
        attacks=attacks,
    )


def _options(settings: Settings, batch: int) -> tuple[str, ...]:
    return "--threads", str(settings.threads), "--batch", str(batch)


def _speeds(folder: Path, settings: Settings, done: Advance) -> tuple[Speed, Speed, Speed]:
    """Of the pipeline, of a server one by one and of one that batches, turn about."""
    bare, single, batched = (Speed([], []) for _ in range(3))
    pipeline, mine = Pipeline.load(folder, "auto", settings.threads), psutil.Process()
    with ExitStack() as stack:
        (one, its), (many, theirs) = (
            stack.enter_context(server(folder, *_options(settings, batch))) for batch in (1, settings.batch)
        )
        for url in (one, many):
            asyncio.run(ask_all(url, settings.steps, range(settings.batch)))
        pipeline.generate(PROMPT, seed=0, num_inference_steps=settings.steps)
        for _ in range(settings.rounds):
            _time(bare, mine, settings, lambda: _alone(pipeline, settings))
            _time(single, its, settings, lambda: _together(one, settings))
            _time(batched, theirs, settings, lambda: _together(many, settings))
            done("round")
    pipeline.close()
    return bare, single, batched


def _time(speed: Speed, process: psutil.Process, settings: Settings, work: Callable[[], None]) -> None:
    start, before = time.perf_counter(), _processor(process)
    work()
    speed.per_second.append(settings.pictures / (time.perf_counter() - start))
    speed.processor.append((_processor(process) - before) / settings.pictures)


def _processor(process: psutil.Process) -> float:
    """Seconds of every thread, so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def _alone(pipeline: Pipeline, settings: Settings) -> None:
    for seed in range(settings.pictures):
        pipeline.generate(PROMPT, seed=seed, num_inference_steps=settings.steps)


def _together(url: str, settings: Settings) -> None:
    asyncio.run(ask_all(url, settings.steps, range(settings.pictures)))


def _same_bytes(url: str, settings: Settings) -> bool:
    """Whether the crowd gets what one gets who asks alone."""
    seeds = range(2 * settings.batch)
    alone = [asyncio.run(ask_all(url, settings.steps, range(seed, seed + 1)))[0].picture for seed in seeds]
    together = [answer.picture for answer in asyncio.run(ask_all(url, settings.steps, seeds))]
    return all(alone) and alone == together


async def _crowd(url: str, settings: Settings) -> Crowd:
    return crowd_of(await ask_all(url, settings.steps, range(settings.requests)))


def crowd_of(answers: list[Answer]) -> Crowd:
    """What many answers came to."""
    statuses = Counter(answer.status for answer in answers)
    good = [answer.seconds for answer in answers if answer.status == "200"]
    points = {f"p{at}": round(float(np.percentile(good, at)), 4) for at in (50, 90, 99)} if good else {}
    return Crowd(dict(sorted(statuses.items())), statuses["hung"], points)


def _endurance(url: str, process: psutil.Process, settings: Settings) -> tuple[float, tuple[int, int], tuple[int, int]]:
    """Requests one after another: bytes of growth for each; threads and files after the first few, and at the end.

    The growth is a line's through the resident size over the second half of the requests.
    """
    sizes, held = [], []
    with httpx.Client(base_url=url, timeout=CLIENT_SECONDS, trust_env=False) as client:
        for seed in range(_WARM + settings.requests):
            client.post(_PATH, json=body(seed, 1))
            sizes.append(process.memory_info().rss)
            held.append((process.num_threads(), process.num_fds()))
    late = sizes[len(sizes) // 2 :]
    return float(np.polyfit(np.arange(len(late)), late, 1)[0]), held[_WARM - 1], held[-1]


def served_lines(served: Served) -> list[str]:
    """The measurements for people."""
    crowd = ", ".join(f"{count} × {status}" for status, count in served.crowd.statuses.items())
    points = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in served.crowd.seconds.items())
    work = ", ".join(f"{name} {1e3 * found.median:.0f} ms" for name, found in served.processor_seconds.items())
    return [
        f"pictures a second: {served.bare.median:.2f} of the pipeline alone; served one by one "
        f"{_times(served.single_ratio)} of that, batched {_times(served.batched_ratio)}",
        f"the processor's time for a picture: {work}; pictures for the same time: one by one "
        f"{_times(served.single_work)}, batched {_times(served.batched_work)}",
        f"the same seeds {'gave' if served.same_bytes else 'did NOT give'} the same bytes alone and together",
        f"all at once: {crowd}, {served.crowd.hung} hung; {points}",
        f"one after another: {served.growth_per_request:.0f} bytes of growth a request, threads "
        f"{served.threads[0]} → {served.threads[1]}, files {served.files[0]} → {served.files[1]}",
        f"a good client's p99 beside slow ones: {_times(served.slow_ratio)} of that without them",
        *(
            f"{name}: {found.status}, {found.grown_bytes / 1e6:.1f} MB more at the peak of {found.peak_bytes / 1e6:.0f}"
            for name, found in served.attacks.items()
        ),
    ]


def _times(ratio: Spread) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"


def served_record(served: Served) -> dict[str, object]:
    """JSON-ready fields."""
    return asdict(served)
