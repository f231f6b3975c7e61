"""The work of `batch`: a file of prompts made into pictures, by several replicas over Ray Data if wanted.

Each line of the file is a JSON object: `prompt`, and where wanted `image` (a file, for an edit), `seed`, `width`,
`height`, `num_inference_steps`, `guidance_scale`, `negative_prompt`. Line 7's picture is OUT/000007.png; a picture that
is there is not made again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from .errors import RequestError, UserError
from .pipeline import Pipeline
from .settings import save_picture


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One line of the file; an edit where it has a picture."""

    prompt: str
    image: str | None = None
    seed: int = 0
    width: int | None = None
    height: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None


@dataclass(frozen=True)
class Task:
    """A line and where its picture goes."""

    number: int
    line: Line
    output: Path


@dataclass(frozen=True)
class Replicas:
    """How many pipelines work side by side, and what each has."""

    count: int = 1
    gpus: float = 0
    cpus: float = 1
    device: str = "auto"
    threads: int | None = None


def read_tasks(file: Path, output: Path) -> list[Task]:
    """The lines whose pictures are not there yet.

    Raises:
        RequestError: the file cannot be read, or a line is wrong; the message names it.
    """
    return [task for task in _tasks(file, output) if not task.output.exists()]


def _tasks(file: Path, output: Path) -> Iterator[Task]:
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise RequestError(f"cannot read {file}: {error.strerror}", "give a file of JSON lines") from error
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            yield Task(number, msgspec.json.decode(text, type=Line), output / f"{number:06}.png")
        except msgspec.MsgspecError as error:
            raise RequestError(f"line {number} of {file}: {error}", "see `unipic2-edge batch --help`") from error


def make(bundle: Path, tasks: list[Task], replicas: Replicas) -> dict[int, str]:
    """Make the pictures; what each failing line failed of, by its number.

    Raises:
        BundleError, RequestError: the bundle cannot be opened.
    """
    if replicas.count == 1:
        worker = PictureMaker(bundle, replicas.device, replicas.threads)
        return dict(found for task in tasks if (found := worker.make(task)) is not None)
    import ray.data

    rows = ray.data.from_items(
        [
            {"number": task.number, "line": msgspec.json.encode(task.line), "output": str(task.output.resolve())}
            for task in tasks
        ],
        # Small ones, so that nobody waits long for the last; cut here, for a task that cuts them would need a processor
        # that the replicas already hold.
        override_num_blocks=min(len(tasks), 4 * replicas.count),
    )
    replica: Any = PictureMaker  # Ray makes one on each replica and calls it with rows
    made = rows.map(
        replica,
        fn_constructor_args=(bundle, replicas.device, replicas.threads),
        concurrency=replicas.count,
        num_gpus=replicas.gpus,
        num_cpus=replicas.cpus,
    )
    return {row["number"]: row["problem"] for row in made.take_all() if row["problem"]}


class PictureMaker:
    """A replica: a pipeline that makes one picture after another."""

    def __init__(self, bundle: Path, device: str, threads: int | None) -> None:
        self._pipeline = Pipeline.load(bundle, device, threads)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row of Ray Data's."""
        line = msgspec.json.decode(row["line"], type=Line)
        found = self.make(Task(row["number"], line, Path(row["output"])))
        return {"number": row["number"], "problem": "" if found is None else found[1]}

    def make(self, task: Task) -> tuple[int, str] | None:
        """One picture, whole or not there; its line and what is wrong when it cannot be made."""
        line = task.line
        options: dict[str, Any] = {
            name: value
            for name in ("width", "height", "num_inference_steps", "guidance_scale", "negative_prompt")
            if (value := getattr(line, name)) is not None
        }
        try:
            if line.image is None:
                result = self._pipeline.generate(line.prompt, seed=line.seed, **options)
            else:
                result = self._pipeline.edit(line.image, line.prompt, seed=line.seed, **options)
            save_picture(result.images[0], task.output, result.settings[0])
        except UserError as error:
            return task.number, str(error)
        return None
