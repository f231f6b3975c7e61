"""A request's body to a checked `Work`: JSON or multipart in, with the bundle's defaults filled in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import anyio
import msgspec
from PIL import Image
from starlette.datastructures import UploadFile
from starlette.requests import Request

from ..bundle import Manifest
from ..errors import RequestError, UserError
from ..images import open_bytes
from ..request import Options, make_request, pick_edit_size, task_defaults
from ..settings import Task
from .encoding import from_data_uri
from .jobs import Work
from .limits import Limits
from .messages import EditRequest, ImageRequest, Message
from .problems import ApiError, problem_of
from .state import State

_Asked = TypeVar("_Asked", bound=Message)
_PARTS = 64
_COMPRESSION = 90


async def read_generation(request: Request) -> ImageRequest:
    """The body of a generation.

    Raises:
        ApiError: not JSON, or a field that is unknown or wrong; the message names it.
    """
    return decoded(await request.body(), ImageRequest)


async def read_edit(request: Request) -> tuple[EditRequest, Image.Image]:
    """The body of an edit and its picture: JSON with a data URI, or multipart/form-data with a file.

    Raises:
        ApiError: as `read_generation`; no picture, more than one, or one that cannot be read.
    """
    state: State = request.app.state.server
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        asked = decoded(await request.body(), EditRequest)
        texts = [asked.image] if isinstance(asked.image, str) else asked.image
        _one(texts)
        return asked, await opened(state, partial(from_data_uri, texts[0]))
    return await _read_form(state, request)


async def _read_form(state: State, request: Request) -> tuple[EditRequest, Image.Image]:
    fields: dict[str, Any] = {}
    pictures: list[UploadFile] = []
    async with request.form(max_files=_PARTS, max_fields=_PARTS) as form:
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                fields[name] = value
            elif name in ("image", "image[]"):
                pictures.append(value)
            else:
                raise ApiError(400, "unknown_field", f"the file {name!r} is not used here", name)
        try:
            asked = msgspec.convert({**fields, "image": ""}, EditRequest, strict=False)
        except msgspec.ValidationError as error:
            raise _invalid(error) from None
        _one(pictures)
        return asked, await opened(state, partial(open_bytes, await pictures[0].read(), "the picture"))


def decoded(body: bytes, kind: type[_Asked]) -> _Asked:
    """A JSON body.

    Raises:
        ApiError: not JSON, or a field that is unknown or wrong; the message names it.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _invalid(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, "invalid_json", f"the body is not JSON: {error}") from None


def _invalid(error: msgspec.ValidationError) -> ApiError:
    text = str(error)
    path = text.partition("`$")[2].partition("`")[0].lstrip(".") or None
    name = text.partition("unknown field `")[2].partition("`")[0]
    return ApiError(400, "unknown_field" if name else "invalid_field", text, name or path)


async def opened(state: State, open_one: Callable[[], Image.Image]) -> Image.Image:
    """A picture of a request, decoded beside the others' answers.

    Raises:
        ApiError: it cannot be read.
    """
    try:
        return await anyio.to_thread.run_sync(open_one, limiter=state.decoders)
    except UserError as error:
        raise ApiError(400, "invalid_image", str(error), "image") from None


def _one(pictures: Sequence[object]) -> None:
    if len(pictures) != 1:
        what = "there is no picture" if not pictures else "several pictures are not edited into one"
        raise ApiError(400, "invalid_image", f"{what} (send one as image)", "image")


def make_work(asked: ImageRequest, manifest: Manifest, limits: Limits, picture: Image.Image | None = None) -> Work:
    """A checked work.

    Raises:
        ApiError: beyond the server's limits, or what the model cannot make.
    """
    _check_limits(asked, manifest, limits)
    try:
        return _work(asked, manifest, limits, picture)
    except RequestError as error:
        raise problem_of(error) from None


def _work(asked: ImageRequest, manifest: Manifest, limits: Limits, picture: Image.Image | None) -> Work:
    task: Task = "generate" if picture is None else "edit"
    default = task_defaults(manifest, task)
    steps = asked.num_inference_steps or min(default.num_inference_steps, limits.steps)
    size = (default.width, default.height)
    if asked.size not in (None, "auto"):
        width, _, height = str(asked.size).partition("x")
        size = int(width), int(height)
    elif picture is not None:
        size = pick_edit_size(manifest, [picture.size], None)
    options = Options(asked.negative_prompt, steps, asked.guidance_scale, asked.seed)
    checked = make_request(manifest, task, (asked.prompt,) * (asked.n or 1), size, options)
    if not asked.prompt.strip():
        raise RequestError("the prompt is empty", "say in words what to make")
    return Work(
        task=checked.task,
        prompt=asked.prompt,
        negative_prompt=checked.negative_prompts[0],
        width=checked.width,
        height=checked.height,
        steps=checked.num_inference_steps,
        guidance=checked.guidance_scale,
        seeds=checked.seeds or (),
        picture=None if picture is None else picture.resize(size),
        output_format=asked.output_format or "png",
        compression=_COMPRESSION if asked.output_compression is None else asked.output_compression,
        partial_images=(asked.partial_images or 0) if asked.stream else 0,
    )


def _check_limits(asked: ImageRequest, manifest: Manifest, limits: Limits) -> None:
    """Raises a ApiError that names the field and its limit."""
    for name, value, most in (
        ("prompt", len(asked.prompt), limits.prompt_characters),
        ("negative_prompt", len(asked.negative_prompt or ""), limits.prompt_characters),
        ("num_inference_steps", asked.num_inference_steps or 0, limits.steps),
        ("n", asked.n or 1, limits.pictures),
    ):
        check_limit(name, value, most)
    check_model(asked.model, manifest)


def check_limit(name: str, value: int, most: int) -> None:
    """Refuse what is beyond a limit of the server.

    Raises:
        ApiError: it names the field and the limit.
    """
    if value > most:
        raise ApiError(400, "too_much", f"{name}: {value} is more than {most}, which this server allows", name)


def check_model(name: str | None, manifest: Manifest) -> None:
    """Refuse another model than the bundle.

    Raises:
        ApiError: there is no model of that name.
    """
    if name not in (None, "", manifest.name):
        raise ApiError(404, "model_not_found", f"there is no model {name[:60]!r}; it is {manifest.name}", "model")
