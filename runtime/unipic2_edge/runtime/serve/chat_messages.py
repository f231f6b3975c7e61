"""The bodies of `/v1/chat/completions`, with OpenAI's fields: one question, with pictures, and its answer in words."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ..answer import FinishReason
from .messages import Message


class ImageUrl(Message, forbid_unknown_fields=True):
    """Where a picture is: in the URI itself."""

    url: Annotated[str, Meta(description="a data URI of a PNG, JPEG or WebP picture")]
    detail: Literal["auto", "low", "high"] | None = None


class TextPart(Message, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """Words of a message."""

    text: str


class ImagePart(Message, forbid_unknown_fields=True, tag_field="type", tag="image_url"):
    """A picture of a message."""

    image_url: ImageUrl


class ChatMessage(Message, forbid_unknown_fields=True):
    """What somebody says."""

    role: Literal["system", "user", "assistant"]
    content: str | list[TextPart | ImagePart]
    name: str | None = None


class StreamOptions(Message, forbid_unknown_fields=True):
    """What a stream tells beside the words."""

    include_usage: bool | None = None


class ChatRequest(Message, forbid_unknown_fields=True):
    """A question: a system message or none, then one message of the user. What is left out is greedy and short."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    model: str | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=1)] | None = None
    user: str | None = None


class Usage(Message):
    """Tokens that were read and made."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Said(Message):
    """The answer's words."""

    content: str
    role: str = "assistant"


class Choice(Message):
    """The one answer."""

    message: Said
    finish_reason: FinishReason | None
    index: int = 0


class ChatAnswer(Message):
    """An answer, whole."""

    id: str
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    object: str = "chat.completion"


class Delta(Message, omit_defaults=True):
    """Some words of a streamed answer."""

    content: str | None = None
    role: str | None = None


class PartialChoice(Message):
    """Some words of the one answer."""

    delta: Delta
    finish_reason: FinishReason | None = None
    index: int = 0


class ChatChunk(Message):
    """One event of a stream."""

    id: str
    created: int
    model: str
    choices: list[PartialChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    object: str = "chat.completion.chunk"
