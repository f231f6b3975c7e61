"""The work of `generate`, `edit` and `describe`: check what can be checked, run the pipeline, hand the result over."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from .cli import Outcome
from .errors import OutputError, RequestError
from .files import output_errors
from .pipeline import Pipeline
from .progress import progress
from .request import task_defaults
from .result import Result
from .settings import Task, save_picture


def generate_pictures(arguments: argparse.Namespace) -> Outcome:
    """`generate`: the prompt's pictures."""
    size = _size(arguments.size)
    return _make(
        arguments,
        "generate",
        lambda pipeline, options: pipeline.generate(arguments.prompt, **size, **options),
    )


def edit_pictures(arguments: argparse.Namespace) -> Outcome:
    """`edit`: the picture changed."""
    size = _size(arguments.size)
    if arguments.longer_edge is not None:
        if size:
            raise RequestError("--size and --longer-edge both give the size", "leave one of them out")
        size = {"size": arguments.longer_edge}
    return _make(
        arguments,
        "edit",
        lambda pipeline, options: pipeline.edit(
            arguments.image, arguments.instruction, reference=arguments.reference, **size, **options
        ),
    )


def describe_picture(arguments: argparse.Namespace) -> Outcome:
    """`describe`: the answer, printed word by word unless it is asked for as JSON."""
    pipeline = _load(arguments)
    answer = pipeline.describe(
        None if arguments.image == "-" else arguments.image,
        arguments.question,
        max_new_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        seed=arguments.seed,
    )
    for piece in answer:
        if not arguments.json:
            print(piece, end="", flush=True)
    result: dict[str, object] = {
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "tokens": answer.tokens,
        "seconds_to_first": answer.seconds_to_first,
        "seconds": answer.seconds,
    }
    return Outcome(result, [])  # the words are out; what is printed last ends their line


def _load(arguments: argparse.Namespace) -> Pipeline:
    return Pipeline.load(arguments.bundle, arguments.device, arguments.threads, arguments.memory, arguments.fallback)


def _make(arguments: argparse.Namespace, task: Task, work: Callable[[Pipeline, dict[str, Any]], Result]) -> Outcome:
    paths = _outputs(arguments.output, arguments.count, arguments.force)
    pipeline = _load(arguments)
    steps = arguments.steps or task_defaults(pipeline.manifest, task).num_inference_steps
    with progress(steps, "step", arguments) as advance:

        def after_step(pipeline: Pipeline, step: int, timestep: float, state: dict[str, Any]) -> None:
            advance(f"t={timestep:.0f}")

        result = work(
            pipeline,
            {
                "negative_prompt": arguments.negative,
                "num_inference_steps": arguments.steps,
                "guidance_scale": arguments.guidance,
                "seed": arguments.seed,
                "num_images": arguments.count,
                "callback_on_step_end": after_step,
            },
        )
    for picture, path, settings in zip(result.images, paths, result.settings, strict=True):
        save_picture(picture, path, settings)
    lines = [f"{path}  seed {settings.seed}" for path, settings in zip(paths, result.settings, strict=True)]
    lines.append(f"{result.seconds['total']:.2f} s, {result.steps_done} steps")
    pictures = [
        {"path": str(path), **msgspec.to_builtins(settings)}
        for path, settings in zip(paths, result.settings, strict=True)
    ]
    return Outcome({"pictures": pictures, "seconds": result.seconds}, lines)


def parse_size(text: str) -> tuple[int, int]:
    """`WxH` as (width, height) in pixels.

    Raises:
        RequestError: it is not of that form.
    """
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if found is None:
        raise RequestError(f"the size {text!r} is not WxH", "for instance --size 512x384")
    return int(found[1]), int(found[2])


def _size(text: str | None) -> dict[str, Any]:
    """`WxH` as pipeline arguments."""
    if text is None:
        return {}
    width, height = parse_size(text)
    return {"width": width, "height": height}


def _outputs(output: Path, count: int, force: bool) -> list[Path]:
    """Where the pictures go; every path is known to be writable before any work starts.

    Raises:
        OutputError: not a PNG name, a picture is there already, or the folder cannot be written to.
        RequestError: no pictures asked for.
    """
    if count < 1:
        raise RequestError(f"{count} pictures cannot be made", "ask for 1 or more with -n")
    if output.suffix.lower() != ".png":
        raise OutputError(f"{output} is not a PNG file name", "pictures are written as .png")
    paths = [output] if count == 1 else [output.with_stem(f"{output.stem}-{i + 1}") for i in range(count)]
    for path in paths:
        if path.exists() and not force:
            raise OutputError(f"{path} is there already", "give another name, or replace it with --force")
    _check_writable(output)
    return paths


def _check_writable(output: Path) -> None:
    probe = output.parent / f".tmp-probe-{output.name}"
    with output_errors(output):
        if output.is_dir():
            raise IsADirectoryError(21, "is a directory")
        try:
            probe.touch()
        finally:
            probe.unlink(missing_ok=True)
