"""The gate: what a bundle lost against its checkpoint, stage by stage, and whether its recipe allows that.

    PyTorch fp32 ─ fake quantisation in PyTorch ─ the bundle's graphs in ONNX Runtime ─ engines, where they run

Every stage is compared with the first, so that a stage that adds an error of its own shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.errors import WorkError
from unipic2_edge.runtime.opening import open_session
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.runtime.pool import SessionPool
from unipic2_edge.runtime.session import Session

from ..recipes import GateThresholds
from ..reference import TorchSession
from ..reference_pipeline import Reference
from ..twin import Float32Twin, needs_twin
from .calibration_set import CalibrationSet
from .drift import Call, PictureDrift, Recorder, picture_drift, relative, velocity_errors
from .fake import ComponentPlan
from .leading import lead
from .scoring import Loss, Verdicts, judge, loss

_JUDGED = 8  # of the calibration set's prompts, and as many edits
_BLOCK_CALLS = 3  # of the denoiser, for the errors of its blocks

Advance = Callable[[str], None]


@dataclass(frozen=True)
class StageDrift:
    """One stage against PyTorch in float32; `reason` says why it was not run.

    Attributes:
        velocity: mean relative error of the denoiser's velocity over all calls.
        velocity_by_step: the same at every step of the schedule.
        pictures: of all pictures, from the same seeds.
        blocks: the relative error that has come together behind every block.
    """

    stage: str
    velocity: float | None = None
    velocity_by_step: tuple[float, ...] = ()
    pictures: PictureDrift | None = None
    blocks: Mapping[str, float] | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Judgement:
    """All stages, the scores where they were wanted, and the thresholds with what missed them."""

    stages: tuple[StageDrift, ...]
    scores: Mapping[str, Loss]
    thresholds: Mapping[str, object]
    missed: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """JSON-ready fields."""
        return asdict(self)


class Gate:
    """Measures bundles of one checkpoint; what the reference does is computed once.

    Args:
        reference: the checkpoint in float32.
        chosen: the calibration set; its first prompts and edits are compared.
        done: called with what was just finished.
    """

    def __init__(self, reference: Reference, chosen: CalibrationSet, done: Advance = lambda name: None) -> None:
        self.reference, self._set, self._done = reference, chosen.part(_JUDGED), done
        self.calls: list[Call] = []
        self.exact = self._record()
        self._verdicts: dict[int, Verdicts] = {}

    def _record(self) -> list[Image.Image]:
        recorders: list[Recorder] = []

        def wrap(name: str, session: Session) -> Session:
            if name != "denoiser":
                return session
            recorders.append(Recorder(session))
            return recorders[-1]

        pictures = self._pictures(self.reference.pipeline(wrap=wrap))
        self.calls = [call for recorder in recorders for call in recorder.calls]
        return pictures

    def _pictures(self, pipeline: Pipeline) -> list[Image.Image]:
        pictures = [picture for _, made in lead(pipeline, self._set) for picture in made]
        pipeline.close()
        self._done("pictures")
        return pictures

    def fake(self, plans: Mapping[str, ComponentPlan], pictures: bool = True) -> StageDrift:
        """The recipe in PyTorch, before it is written."""
        plan = plans.get("denoiser")
        spec = next(spec for spec in self.reference.specs("denoiser") if spec.name == "denoiser")
        session = TorchSession(spec, None if plan is None else plan.prepare)
        drift = self._drift("fake quantisation", session, None)
        made = None
        if pictures:
            pipeline = self.reference.pipeline({name: plan.prepare for name, plan in plans.items()})
            made = self._compare(self._pictures(pipeline))
        blocks = self._blocks(plan) if plan is not None else None
        session.close()
        return StageDrift(drift.stage, drift.velocity, drift.velocity_by_step, made, blocks)

    def onnx(self, bundle: Bundle) -> StageDrift:
        """The bundle's own graphs and weights, computed by ONNX Runtime exactly as they say."""
        try:
            session = open_exact(bundle, "denoiser")
        except WorkError as error:
            return StageDrift("onnx", reason=error.problem)
        drift = self._drift("onnx", session, exact_pipeline(bundle))
        session.close()
        return drift

    def engine(self, bundle: Bundle) -> StageDrift:
        """The bundle as a processor serves it; engines of GPUs are measured where the GPU is."""
        carriers = {component.precision for component in bundle.manifest.components.values()}
        if "bfloat16" in carriers or any("nvfp4" in part.formats for part in bundle.manifest.components.values()):
            return StageDrift("engine", reason="no GPU here, and processors do not run the recipe")
        session = open_session(bundle, "denoiser", "cpu")
        drift = self._drift("engine (cpu)", session, Pipeline.load(bundle.folder, "cpu"))
        session.close()
        return drift

    def scores(self, candidate: Pipeline, count: int) -> dict[str, Loss]:
        """What the candidate lost on the shapes world, against the reference on the same prompts."""
        if count not in self._verdicts:
            self._verdicts[count] = judge(self.reference.pipeline(), count, self._done)
        exact, made = self._verdicts[count], judge(candidate, count, self._done)
        return {task: loss(getattr(made, task), getattr(exact, task)) for task in ("generate", "edit")}

    def _drift(self, stage: str, session: Session, pipeline: Pipeline | None) -> StageDrift:
        errors = velocity_errors(session, self.calls)
        steps = self.reference.manifest.defaults["generate"].num_inference_steps
        steps = self._set.settings.steps or steps
        by_step = tuple(round(float(np.mean(errors[step::steps])), 6) for step in range(steps))
        pictures = None if pipeline is None else self._compare(self._pictures(pipeline))
        return StageDrift(stage, float(np.mean(errors)), by_step, pictures)

    def _compare(self, made: Sequence[Image.Image]) -> PictureDrift:
        sources = [*([None] * len(self._set.prompts)), *(picture for picture, _ in self._set.edits)]
        return picture_drift(made, self.exact, sources)

    def _blocks(self, plan: ComponentPlan) -> dict[str, float]:
        """The error behind every block, the mean over some calls of the schedule."""
        spec = next(spec for spec in self.reference.specs("denoiser") if spec.name == "denoiser")
        exact, fake = _Stages(), _Stages()
        sessions = (TorchSession(spec, None, exact), TorchSession(spec, plan.prepare, fake))
        errors: dict[str, list[float]] = {}
        for index in np.linspace(0, len(self.calls) - 1, _BLOCK_CALLS).astype(int):
            for session in sessions:
                session.run(self.calls[index].inputs)
            for place, value in exact.tokens.items():
                if "transformer_blocks" in place:
                    errors.setdefault(place, []).append(relative(fake.tokens[place], value))
        return {place: round(float(np.mean(values)), 6) for place, values in errors.items()}


class _Stages:
    """The first value of every stage, the image's tokens, of the call made last (an `Observe`)."""

    def __init__(self) -> None:
        self.tokens: dict[str, np.ndarray] = {}

    def __call__(self, place: str, values: Sequence[Tensor]) -> None:
        self.tokens[place] = values[0].to(torch.float32).numpy()


def open_exact(bundle: Bundle, name: str, threads: int | None = None) -> Session:
    """A graph computed exactly as it says.

    Raises:
        WorkError: no library here can.
    """
    if needs_twin(bundle, name):
        return Float32Twin(bundle, name, threads)
    return open_session(bundle, name, "cpu", threads)


def exact_pipeline(bundle: Bundle, threads: int | None = None) -> Pipeline:
    """The runtime's pipeline over graphs computed exactly as they say."""
    return Pipeline(bundle, SessionPool(bundle, lambda name: open_exact(bundle, name, threads)))


def judgement(stages: Sequence[StageDrift], scores: Mapping[str, Loss], thresholds: GateThresholds) -> Judgement:
    """Hold what was measured against a recipe's thresholds."""
    missed = []
    for stage in stages:
        if stage.velocity is not None and thresholds.velocity is not None and stage.velocity > thresholds.velocity:
            missed.append(f"{stage.stage}: velocity error {stage.velocity:.3f} over {thresholds.velocity}")
        if stage.pictures is not None and thresholds.psnr is not None and stage.pictures.psnr < thresholds.psnr:
            missed.append(f"{stage.stage}: {stage.pictures.psnr:.1f} dB under {thresholds.psnr}")
    for task, lost in scores.items():
        if thresholds.points is not None and lost.at_least > thresholds.points:
            missed.append(f"{task}: lost {lost.points} points, at least {lost.at_least}, over {thresholds.points}")
    limits = {"velocity": thresholds.velocity, "psnr": thresholds.psnr, "points": thresholds.points}
    return Judgement(tuple(stages), dict(scores), limits, tuple(missed))


def check(judged: Judgement, folder: Path) -> None:
    """Refuse a bundle that lost too much.

    Raises:
        WorkError: with the numbers.
    """
    if judged.missed:
        raise WorkError(
            f"{folder.name} misses its recipe's gate: {'; '.join(judged.missed)}",
            "take a recipe that keeps more (`--recipe auto` finds one), or export with --no-gate",
        )
