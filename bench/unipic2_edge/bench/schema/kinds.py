"""The results of every kind of report."""

from __future__ import annotations

from typing import Any

import msgspec

from ..regression import Change
from ..statistics import Spread
from .values import (
    BundleIdentity,
    EnergySources,
    Figure,
    JudgedScore,
    LatencyPoint,
    OpeningSeconds,
    PictureFile,
    Record,
    Score,
    ThroughputPoint,
)


class Latency(Record):
    """`bench latency`: points, opening, cold starts by bundle and process, identities, a picture of each point."""

    points: list[LatencyPoint]
    loads: list[OpeningSeconds]
    bundles: dict[str, BundleIdentity]
    cold: dict[str, dict[str, Spread]]
    pictures: list[PictureFile]


class Throughput(Record):
    """`bench throughput`: points, where joules come from, identities."""

    points: list[ThroughputPoint]
    energy: EnergySources
    bundles: dict[str, BundleIdentity]


class Words(msgspec.Struct, kw_only=True):
    """`bench words`: answers and their agreement; every other field is a `Figure` or a ratio."""

    answers: int
    answers_token_for_token: int


class ComparedPeer(msgspec.Struct, kw_only=True):
    """One peer of a task: why it did not take part, or its seconds, and how far it is from the reference.

    `latents_error` is a step's velocity's, too; `psnr_db` is "identical" where all pixels are equal.
    """

    name: str
    reason: str | None
    seconds: Spread | None
    samples: list[float]
    speedup: Spread | None
    latents_error: float | None
    psnr_db: float | str | None
    same: bool | None
    load_seconds: float | None
    first_seconds: float | None
    resident_bytes: int | None
    about: dict[str, str]


class ComparedTask(Record):
    """The peers of `generate`, `edit` or `step`, and the one that they are compared with."""

    reference: str | None
    rows: list[ComparedPeer]


class Changes(Record):
    """`bench compare` of two stored reports; see `regression.Change`."""

    changes: list[Change]


class Serve(msgspec.Struct, kw_only=True):
    """`bench serve`; see `Served`."""

    bare: Spread
    single: Spread
    batched: Spread
    single_ratio: Spread
    batched_ratio: Spread
    same_bytes: bool


class RecipeRow(msgspec.Struct, kw_only=True):
    """One recipe: points lost by task, relative error of the velocity, bytes, seconds of a picture."""

    recipe: str
    lost: dict[str, Any]
    velocity: float | None
    denoiser_bytes: int | None
    generate_seconds: float | None
    targets: list[str]


class Recipes(Record):
    """`bench recipes`."""

    rows: list[RecipeRow]


class EngineRow(msgspec.Struct, kw_only=True):
    """A graph compiled for a target, or the reason why not."""

    graph: str
    precision: str
    target: str
    reason: str | None
    engine_bytes: int | None
    build_seconds: float | None


class Engines(Record):
    """`bench engines`."""

    rows: list[EngineRow]
    prediction_errors: dict[str, float]


class MemoryPlan(Record):
    """Which graphs stay on a card, and which take turns."""

    resident: list[str]
    swapped: list[str]
    peak_bytes: int


class Rung(Record):
    """A card's budget in bytes and the plan for it, or why there is none."""

    budget: int
    plan: MemoryPlan | None
    reason: str | None


class Memory(Record):
    """`bench memory`."""

    needs: list[dict[str, Any]]
    ladder: list[Rung]


class RooflineStage(msgspec.Struct, kw_only=True):
    """One graph's calls against the limits."""

    name: str
    graph: str
    extents: dict[str, int]
    calls: int
    seconds: float
    work: dict[str, Any]
    mfu: float | None
    mbu: float
    by: str


class Roofline(Record):
    """`bench roofline`."""

    seconds: float
    host_seconds: float
    limits: dict[str, Any]
    stages: list[RooflineStage]


class PredictedCard(msgspec.Struct, kw_only=True):
    """A card that is not here: seconds predicted with their terms, or why there are none."""

    target: str
    card: str
    predicted_seconds: float | None
    least_seconds: float | None
    reason: str | None
    terms: list[dict[str, Any]]


class Predict(msgspec.Struct, kw_only=True):
    """`bench predict`."""

    efficiency: dict[str, Any]
    predictions: list[PredictedCard]
    graphs: list[str]


#: Kind of report → the type of its results; kinds that are not here may hold anything.
RESULTS: dict[str, Any] = {
    "latency": Latency,
    "throughput": Throughput,
    "quality": dict[str, Score],
    "judge": dict[str, JudgedScore],
    "words": Words,
    "startup": dict[str, Spread],
    "compare": dict[str, ComparedTask],
    "changes": Changes,
    "serve": Serve,
    "recipes": Recipes,
    "engines": Engines,
    "memory": Memory,
    "roofline": Roofline,
    "predict": Predict,
}
#: Types that a field of a kind's results may have where the fields' names are data.
FURTHER = (Figure,)
