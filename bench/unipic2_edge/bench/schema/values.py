"""What reports of all kinds hold: the machine, scores, samples, points of a sweep."""

from __future__ import annotations

from typing import Any

import msgspec

from ..statistics import Percentiles, Spread

Sha256 = str


class Record(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A part of a report that holds its fields and no others."""


class Machine(msgspec.Struct, kw_only=True):
    """The machine; what could not be read is left out."""

    processor: str
    cores: int
    memory_gib: float
    system: str
    architecture: str
    python: str
    libraries: dict[str, str]
    load_average: list[float] = []
    sensors: dict[str, Any] = {}
    gpus: list[str] = []
    gpu_sensors: dict[str, dict[str, Any]] = {}


class TaskScore(Record):
    """Right answers of one task, and the 95 % interval of their share."""

    right: int
    total: int
    interval_95: list[float]


class Score(TaskScore):
    """A score: the mean over its tasks."""

    mean: float
    tasks: dict[str, TaskScore]


class MeanScore(Record):
    """A mean of values 0…1 and its 95 % interval."""

    mean: float
    total: int
    interval_95: list[float]


class JudgedScore(MeanScore):
    """A judge's score of all edits, of each task and of each question; nonsense it answered is not in them."""

    unanswered: int
    tasks: dict[str, MeanScore]
    questions: dict[str, MeanScore]


class PictureFile(Record):
    """A picture beside the report, and its words."""

    file: str
    text: str


class EngineIdentity(Record):
    """Who runs a graph, and the hash of what is opened for it."""

    backend: str
    sha256: Sha256


class BundleIdentity(Record):
    """A bundle by its hashes: the checkpoint's, the manifest's, the engines'; and where it was placed."""

    name: str
    recipe: str
    source: Sha256
    manifest: Sha256
    engines: dict[str, EngineIdentity]
    placement: list[str]


class Figure(Record):
    """A figure of two contestants, and the advantage of the first."""

    unit: str
    runtime: Spread
    pytorch: Spread
    speedup: Spread


class LatencyPoint(Record):
    """One setting of a latency sweep, in seconds but for the rate; one that could not be run says why, and no more."""

    name: str
    bundle: str
    memory: str | None
    task: str
    size: str
    steps: int | None
    guidance: float | None
    refused: str | None = None
    runs: int = 0
    first_run: float = 0.0
    stages: dict[str, Percentiles] = {}
    graphs: dict[str, Percentiles] = {}
    outside_graphs: Percentiles | None = None
    waiting_for_graphs: Percentiles | None = None
    processor_seconds: Percentiles | None = None
    samples: list[float] = []
    to_first_step: Percentiles | None = None
    step: Percentiles | None = None
    step_medians: list[float] = []
    to_first_token: Percentiles | None = None
    tokens_per_second: Percentiles | None = None


class OpeningSeconds(Record):
    """What opening a bundle under a memory plan took, its graphs one by one."""

    bundle: str
    memory: str | None
    pipeline: float
    graphs: dict[str, float]
    total: float


class ThroughputPoint(Record):
    """One setting of a throughput sweep; energy stands there where meters answered."""

    name: str
    bundle: str
    memory: str | None
    task: str
    size: str
    steps: int | None
    guidance: float | None
    batch: int
    concurrency: int
    refused: str | None = None
    batches_of_a_burst: int = 0
    pictures_per_second: Spread | None = None
    seconds_of_a_batch: Percentiles | None = None
    samples: list[float] = []
    joules_a_picture: Spread | None = None
    joules_a_picture_by_meter: dict[str, Spread] = {}
    pictures_a_joule: Spread | None = None


class MeterIdentity(Record):
    """A meter of energy and what it covers."""

    name: str
    scope: str


class EnergySources(Record):
    """Who measured energy, who could not and why, the power at rest, and who failed meanwhile."""

    meters: list[MeterIdentity]
    unreadable: list[str]
    idle_watts: dict[str, float]
    failed: dict[str, str]
