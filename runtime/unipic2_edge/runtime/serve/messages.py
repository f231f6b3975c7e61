"""The bodies of requests and answers, from which OpenAPI's document is made. Fields are OpenAI's and diffusers'."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Format = Literal["png", "jpeg", "webp"]
State = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class Message(msgspec.Struct, kw_only=True):
    """Base of all bodies."""


class ImageRequest(Message, forbid_unknown_fields=True):
    """A generation: OpenAI's fields, and diffusers' beside them. What is left out is the bundle's default."""

    prompt: Annotated[str, Meta(min_length=1, description="what to make, or what to change")]
    model: str | None = None
    n: Annotated[int, Meta(ge=1)] | None = None
    size: (
        Annotated[str, Meta(description="WxH in pixels, or auto", pattern=r"^(auto|[0-9]{1,5}x[0-9]{1,5})$")] | None
    ) = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Format | None = None
    output_compression: Annotated[int, Meta(ge=0, le=100, description="quality of JPEG and WebP")] | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Meta(ge=0, le=3)] | None = None
    progress: Annotated[bool, Meta(description="with stream: an event for every step")] | None = None
    quality: Literal["auto", "standard"] | None = None
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto", "low"] | None = None
    user: str | None = None
    num_inference_steps: Annotated[int, Meta(ge=1)] | None = None
    guidance_scale: Annotated[float, Meta(ge=0, le=100)] | None = None
    negative_prompt: str | None = None
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None


class EditRequest(ImageRequest, forbid_unknown_fields=True):
    """An edit; as multipart/form-data `image` is a file."""

    image: Annotated[str | list[str], Meta(description="a data URI of a PNG, JPEG or WebP picture")] = ""


class ImageData(Message, omit_defaults=True):
    """One picture of an answer."""

    b64_json: str | None = None
    url: Annotated[str, Meta(description="a data URI")] | None = None
    seed: int | None = None


class ImageAnswer(Message):
    """Pictures, in order."""

    created: int
    data: list[ImageData]
    output_format: Format = "png"
    size: str = ""
    seconds: float = 0.0


class ImageEvent(Message, omit_defaults=True):
    """One event of a stream, named `image_generation.…` or `image_edit.…`."""

    type: str
    created_at: int
    b64_json: str | None = None
    partial_image_index: int | None = None
    output_format: Format | None = None
    size: str | None = None
    quality: str = "auto"
    background: str = "opaque"
    step: int | None = None
    steps: int | None = None
    position: int | None = None
    seed: int | None = None


class JobAnswer(Message):
    """A job: where it stands."""

    id: str
    state: State
    task: Literal["generate", "edit"]
    created: int
    position: Annotated[int, Meta(description="jobs before it")] | None = None
    eta_seconds: float | None = None
    step: int = 0
    steps: int = 0
    pictures: Annotated[list[str], Meta(description="where to fetch the pictures")] = []
    seeds: list[int] = []
    error: ErrorBody | None = None


class JobList(Message):
    """All jobs that are known."""

    data: list[JobAnswer]
    object: str = "list"


class Model(Message):
    """A model, which is the bundle."""

    id: str
    created: int
    object: str = "model"
    owned_by: str = "unipic2-edge"
    recipe: str = ""
    tasks: list[str] = []
    sizes: str = ""


class ModelList(Message):
    """The one model."""

    data: list[Model]
    object: str = "list"


class ErrorBody(Message):
    """What is wrong."""

    message: str
    type: str
    code: str
    param: str | None = None


class ErrorAnswer(Message):
    """An error in OpenAI's form."""

    error: ErrorBody


class Health(Message):
    """Whether the server lives, or is ready."""

    status: str
    waiting: int = 0
