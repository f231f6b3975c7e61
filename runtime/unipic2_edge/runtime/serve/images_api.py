"""`/v1/images/generations` and `/v1/images/edits`, as OpenAI has them."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from .encoding import data_uri
from .jobs import Job, Update, Work
from .messages import ImageAnswer, ImageData, ImageEvent, ImageRequest
from .problems import ApiError
from .reading import make_work, read_edit, read_generation
from .state import State

_STREAMED = {"generate": "image_generation", "edit": "image_edit"}


async def generations(request: Request) -> Response:
    """Pictures from words."""
    asked = await read_generation(request)
    state: State = request.app.state.server
    return await _answer(request, state, asked, make_work(asked, state.manifest, state.limits))


async def edits(request: Request) -> Response:
    """A picture changed as told."""
    asked, picture = await read_edit(request)
    state: State = request.app.state.server
    return await _answer(request, state, asked, make_work(asked, state.manifest, state.limits, picture))


async def _answer(request: Request, state: State, asked: ImageRequest, work: Work) -> Response:
    updates: asyncio.Queue[Update] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def tell(update: Update) -> None:  # from the worker's thread
        loop.call_soon_threadsafe(updates.put_nowait, update)

    job = state.submit(work, tell)
    if asked.stream:
        return StreamingResponse(_events(state, job, updates, bool(asked.progress)), media_type="text/event-stream")
    try:
        await finished(request, job, updates)
    finally:
        job.cancel()  # nothing when it is over; else the client went away
        state.jobs.drop(job)
    if job.problem is not None:
        raise job.problem
    return json_answer(_image_answer(job, asked.response_format == "url"))


async def finished(request: Request, job: Job[Any], updates: asyncio.Queue[Update]) -> None:
    """Wait for the job, or for the client to hang up."""
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        while not job.over:
            update = asyncio.ensure_future(updates.get())
            await asyncio.wait({gone, update}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                update.cancel()
                raise ApiError(499, "disconnected", "the client went away")
    finally:
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(state: State, job: Job[Work], updates: asyncio.Queue[Update], progress: bool) -> AsyncIterator[bytes]:
    """Server-sent events: previews and pictures, and every step where it was asked for."""
    name = _STREAMED[job.work.task]
    try:
        if progress:
            yield _event(_progress(state, job, name))
        while True:
            update = await updates.get()
            if update.kind == "partial" and update.picture is not None:
                yield _event(_picture_event(job, f"{name}.partial_image", update.picture, index=update.index))
            elif update.kind == "step" and progress:
                yield _event(_progress(state, job, name))
            elif update.kind == "finished":
                break
        if job.problem is not None:
            yield b"event: error\ndata: " + msgspec.json.encode(job.problem.to_dict()) + b"\n\n"
        for picture, seed in zip(job.pictures, job.work.seeds, strict=False):
            yield _event(_picture_event(job, f"{name}.completed", picture, seed=seed))
    finally:
        job.cancel()
        state.jobs.drop(job)


def _event(event: ImageEvent) -> bytes:
    return b"event: " + event.type.encode() + b"\ndata: " + msgspec.json.encode(event) + b"\n\n"


def _progress(state: State, job: Job[Work], name: str) -> ImageEvent:
    return ImageEvent(
        type=f"{name}.progress",
        created_at=int(time.time()),
        step=job.step,
        steps=job.work.steps,
        position=state.backlog.position(job),
    )


def _picture_event(
    job: Job[Work], kind: str, picture: bytes, index: int | None = None, seed: int | None = None
) -> ImageEvent:
    return ImageEvent(
        type=kind,
        created_at=int(time.time()),
        b64_json=base64.b64encode(picture).decode(),
        partial_image_index=index,
        output_format=job.work.output_format,
        size=f"{job.work.width}x{job.work.height}",
        seed=seed,
    )


def _image_answer(job: Job[Work], as_url: bool) -> ImageAnswer:
    work = job.work
    data = [
        ImageData(
            b64_json=None if as_url else base64.b64encode(picture).decode(),
            url=data_uri(picture, work.output_format) if as_url else None,
            seed=seed,
        )
        for picture, seed in zip(job.pictures, work.seeds, strict=True)
    ]
    return ImageAnswer(
        created=int(time.time()),
        data=data,
        output_format=work.output_format,
        size=f"{work.width}x{work.height}",
        seconds=round(job.seconds, 4),
    )


def json_answer(content: object, status: int = 200) -> Response:
    """A struct as JSON."""
    return Response(msgspec.json.encode(content), status, media_type="application/json")
