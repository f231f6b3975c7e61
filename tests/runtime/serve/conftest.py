"""A server in a thread, over a pipeline that the test brings, and clients of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from unipic2_edge.runtime.answer import Answer, FinishReason
from unipic2_edge.runtime.bundle import Bundle, Manifest
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.runtime.placement import Placement
from unipic2_edge.runtime.result import Result
from unipic2_edge.runtime.serve.limits import Limits
from unipic2_edge.runtime.serve.pictures import Pictures
from unipic2_edge.runtime.serve.server import Place, Server
from unipic2_edge.runtime.serve.state import State
from unipic2_edge.runtime.settings import PictureSettings

QUICK = replace(Limits(), drain_seconds=5.0)


@dataclass
class Running:
    """A server that runs: where, and what is inside."""

    url: str
    state: State

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **options)


class FakePipeline:
    """Pictures whose colour is their seed; what goes wrong, and how long a step takes, is the test's to say."""

    def __init__(self) -> None:
        self.interrupt = False
        self.step_seconds = 0.0
        self.faults: list[Exception] = []
        self.batches: list[int] = []
        self.closed = 0
        self.staged: list[bool] = []
        self.placement: Placement | None = None
        self.most_pictures: int | None = None
        self.hold = threading.Event()
        self.hold.set()

    def generate(self, prompt: Sequence[str], **options: Any) -> Result:
        return self._make("generate", prompt, options)

    def edit(self, image: Sequence[Image.Image], instruction: Sequence[str], **options: Any) -> Result:
        assert len(image) == len(instruction)
        return self._make("edit", instruction, options)

    def describe(self, image: Sequence[Image.Image], question: str, **options: Any) -> Answer:
        self.hold.wait()
        if self.faults:
            raise self.faults.pop(0)
        words = [f"{len(image)} ", "pictures ", "seen"][: options["max_new_tokens"]]

        def tokens() -> Generator[int, None, FinishReason]:
            for number in range(len(words)):
                time.sleep(self.step_seconds)
                yield number
            return "stop"

        return Answer(tokens(), words.__getitem__, 7)

    def decode(self, latents: Any) -> list[Image.Image]:
        return [Image.new("RGB", (8, 8), "gray") for _ in latents]

    def stage(self, on: bool) -> None:
        self.staged.append(on)

    def close(self) -> None:
        self.closed += 1

    def _make(self, task: Any, prompts: Sequence[str], options: dict[str, Any]) -> Result:
        self.interrupt = False
        self.hold.wait()
        self.batches.append(len(prompts))
        if self.faults:
            raise self.faults.pop(0)
        steps, done = options["num_inference_steps"], 0
        latents = np.zeros((len(prompts), 8, 16, 16), np.float32)
        for step in range(steps):
            time.sleep(self.step_seconds)
            done = step + 1
            options["callback_on_step_end"](self, step, 0.0, {"latents": latents, "denoised": latents})
            if self.interrupt:
                break
        size = options["width"], options["height"]
        settings = [
            PictureSettings(
                task=task,
                prompt=prompt,
                negative_prompt=negative,
                width=size[0],
                height=size[1],
                num_inference_steps=steps,
                guidance_scale=options["guidance_scale"],
                seed=seed,
                bundle="fake",
                source="",
                recipe="fp32",
            )
            for prompt, negative, seed in zip(prompts, options["negative_prompt"], options["seed"], strict=True)
        ]
        images = [Image.new("RGB", size, (seed % 256, 0, 0)) for seed in options["seed"]]
        return Result(images, latents, tuple(options["seed"]), settings, {"total": 0.1}, done)


@pytest.fixture(scope="session")
def manifest(_written: Path) -> Manifest:
    return Bundle(_written).manifest


@contextmanager
def running(
    manifest: Manifest, load: Callable[[], Pictures], limits: Limits = QUICK, place: Place | None = None
) -> Iterator[Running]:
    """A server on a free port, stopped at the end as SIGTERM stops one."""
    state = State(manifest, load, limits)
    server = Server(state, place or Place(port=0))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Running(f"http://127.0.0.1:{port}", state)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def fake() -> FakePipeline:
    return FakePipeline()


@pytest.fixture
def server(manifest: Manifest, fake: FakePipeline) -> Iterator[Running]:
    """Over the fake pipeline."""
    with running(manifest, lambda: fake) as made:
        yield made


@pytest.fixture(scope="module")
def real(manifest: Manifest, _written: Path) -> Iterator[Running]:
    """Over the hand-made bundle."""
    with running(manifest, lambda: Pipeline.load(_written, "cpu", 1)) as made:
        yield made
