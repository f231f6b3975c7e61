"""A step of an acceptance run: what it is, what it needs, what it is given and what it hands back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

Status = Literal["passed", "failed", "skipped"]


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What a whole run is made with.

    Attributes:
        device: "cpu", or "gpu:0" and the like.
        capability: the GPU's compute capability ("8.9").
        work: the folder of what steps leave for each other.
        small: a Kontext checkpoint that makes pictures; None makes a random tiny one.
        words: a MetaQuery checkpoint that answers; None leaves answers out.
        model: the config whose denoiser is timed, with random weights.
        layers: of it, instead of all.
        workloads: (task, width, height) of its steps.
        peers: PyTorch's ways that every engine is timed beside.
        prompts: pictures of each task that are judged.
        seconds: that a measurement may take, warm-up and opening not counted.
        threads: CPU threads; None takes one a core.
        checkout: the folder of this project's sources, if it runs from one.
    """

    device: str
    work: str
    model: str
    workloads: tuple[tuple[str, int, int], ...]
    capability: str | None = None
    small: str | None = None
    words: str | None = None
    layers: int | None = None
    peers: tuple[str, ...] = ("eager", "compile")
    prompts: int = 36
    seconds: float = 30.0
    threads: int | None = None
    checkout: str | None = None

    @property
    def gpu(self) -> int | None:
        """The GPU's index."""
        return int(self.device.partition(":")[2] or 0) if self.device != "cpu" else None

    @property
    def half(self) -> str:
        """The recipe of 16 bit: bfloat16, or float16 on cards before Ampere, which have no other."""
        return "fp16" if self.capability is not None and float(self.capability) < 8 else "bf16"

    @property
    def folder(self) -> Path:
        """The work folder."""
        return Path(self.work)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the table.

    Attributes:
        name: unique, `group/…`.
        title: for people.
        run: "package.module:function", called with a `Job`; returns a `Made`.
        arguments: for that function.
        needs: modules that must be there.
        after: steps that must have passed.
        uses: steps whose results it is shown if they passed; those of `after` are shown as well.
    """

    name: str
    title: str
    run: str
    arguments: dict[str, Any] = {}
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """The first part of its name."""
        return self.name.partition("/")[0]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A step on its way to its process.

    Attributes:
        setting: of the run.
        step: what is to be done.
        found: results of the steps that it is shown, by name.
        again: whether it was done before, and what it left is to be made anew.
    """

    setting: Setting
    step: Step
    found: dict[str, dict[str, Any]] = {}
    again: bool = False


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What a step hands back.

    Attributes:
        results: JSON-ready.
        lines: for people.
        problem: why it failed although it ran to its end; None if it passed.
    """

    results: dict[str, Any]
    lines: list[str] = []
    problem: str | None = None


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is written down of a step: how it ended, why if it did not pass, and how long it took in seconds."""

    name: str
    title: str
    status: Status
    seconds: float
    reason: str = ""
    results: dict[str, Any] = {}
    lines: list[str] = []


def workload_name(load: tuple[str, int, int]) -> str:
    """A workload in words: task, then size."""
    task, width, height = load
    return f"{task} {width}x{height}"


class SkippedError(Exception):
    """A step cannot be done here: its first argument says why."""
