"""`/v1/chat/completions`, as OpenAI has it, for bundles with a language model: a question about pictures, answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial

import msgspec
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from .chat_messages import (
    ChatAnswer,
    ChatChunk,
    ChatMessage,
    ChatRequest,
    Choice,
    Delta,
    ImagePart,
    PartialChoice,
    Said,
    Usage,
)
from .encoding import from_data_uri
from .images_api import finished, json_answer
from .jobs import Job, Talk, Update
from .problems import ApiError
from .reading import check_limit, check_model, decoded, opened
from .state import State


async def completions(request: Request) -> Response:
    """A question about pictures, or without one, answered in words."""
    state: State = request.app.state.server
    asked = decoded(await request.body(), ChatRequest)
    talk = await _talk(asked, state)
    updates: asyncio.Queue[Update] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def tell(update: Update) -> None:  # from the worker's thread
        loop.call_soon_threadsafe(updates.put_nowait, update)

    job = state.ask(talk, tell)
    if asked.stream:
        usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
        return StreamingResponse(_events(state, job, updates, usage), media_type="text/event-stream")
    try:
        await finished(request, job, updates)
    finally:
        job.cancel()  # nothing when it is over; else the client went away
    if job.problem is not None or job.answer is None:
        raise job.problem or ApiError(500, "internal_error", "the server failed; its log has more")
    choice = Choice(message=Said(content=job.answer.text), finish_reason=job.answer.finish_reason)
    return json_answer(
        ChatAnswer(
            id=_name(job), created=int(job.created), model=state.manifest.name, choices=[choice], usage=_usage(job)
        )
    )


async def _talk(asked: ChatRequest, state: State) -> Talk:
    """The checked question.

    Raises:
        ApiError: another conversation than one question, pictures that cannot be read, beyond the server's limits.
    """
    check_model(asked.model, state.manifest)
    *before, last = asked.messages
    if last.role != "user" or len(before) > 1 or (before and before[0].role != "system"):
        raise ApiError(
            400, "one_question", "one question is answered at a time (send one user message, last)", "messages"
        )
    system = "".join(_texts(before[0])) if before else None
    question, pictures = "\n".join(_texts(last)), await _pictures(last, state)
    if not question and not pictures:
        raise ApiError(400, "invalid_request", "there is neither a question nor a picture", "messages")
    tokens = asked.max_completion_tokens or asked.max_tokens or min(256, state.limits.tokens)
    check_limit("max_tokens", tokens, state.limits.tokens)
    check_limit("messages", len(question) + len(system or ""), state.limits.prompt_characters)
    return Talk(
        question=question,
        pictures=pictures,
        system=system,
        max_tokens=tokens,
        temperature=asked.temperature or 0.0,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        seed=asked.seed or 0,
    )


def _texts(message: ChatMessage) -> list[str]:
    if isinstance(message.content, str):
        return [message.content]
    return [part.text for part in message.content if not isinstance(part, ImagePart)]


async def _pictures(message: ChatMessage, state: State) -> tuple[Image.Image, ...]:
    parts = [] if isinstance(message.content, str) else message.content
    urls = [part.image_url.url for part in parts if isinstance(part, ImagePart)]
    check_limit("messages", len(urls), state.limits.pictures)
    return tuple([await opened(state, partial(from_data_uri, url)) for url in urls])


async def _events(state: State, job: Job[Talk], updates: asyncio.Queue[Update], usage: bool) -> AsyncIterator[bytes]:
    """Server-sent events: the words as they come, why it ended, and, if asked for, how many tokens it took."""
    try:
        yield _event(_chunk(state, job, Delta(role="assistant", content="")))
        while (update := await updates.get()).kind != "finished":
            if update.text:
                yield _event(_chunk(state, job, Delta(content=update.text)))
        if job.problem is not None or job.answer is None:
            problem = job.problem or ApiError(500, "internal_error", "the server failed; its log has more")
            yield b"data: " + msgspec.json.encode(problem.to_dict()) + b"\n\n"
            return
        last = _chunk(state, job, Delta())
        last.choices[0].finish_reason = job.answer.finish_reason
        yield _event(last)
        if usage:
            yield _event(msgspec.structs.replace(_chunk(state, job, Delta()), choices=[], usage=_usage(job)))
        yield b"data: [DONE]\n\n"
    finally:
        job.cancel()


def _chunk(state: State, job: Job[Talk], delta: Delta) -> ChatChunk:
    return ChatChunk(
        id=_name(job), created=int(time.time()), model=state.manifest.name, choices=[PartialChoice(delta=delta)]
    )


def _event(chunk: ChatChunk) -> bytes:
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def _name(job: Job[Talk]) -> str:
    return "chatcmpl-" + job.id.removeprefix("job-")


def _usage(job: Job[Talk]) -> Usage:
    read, made = (0, 0) if job.answer is None else (job.answer.prompt_tokens, job.answer.tokens)
    return Usage(prompt_tokens=read, completion_tokens=made, total_tokens=read + made)
