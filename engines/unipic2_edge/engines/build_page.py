"""What `build` tells: a bar while it works, then one line for each engine; or, dry, what it would take."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.cli import Outcome
from unipic2_edge.runtime.device import system_memory

from .build import Built, build
from .contest import WORTH
from .engine_set import Job
from .prediction import Prediction, predict
from .table import aligned

_MB = 1e6
_HEAD = ("graph", "precision", "for", "through", "engine", "on the device")


def watched_build(bundle: Bundle, jobs: Sequence[Job], arguments: argparse.Namespace) -> list[Built]:
    """Build with a progress bar on stderr: one unit an engine, the compiler's phase beside it."""
    from tqdm import tqdm

    silent = arguments.quiet or not sys.stderr.isatty()
    with tqdm(total=float(len(jobs)), file=sys.stderr, disable=silent, leave=False, bar_format=_BAR) as bar:
        done: dict[str, float] = {}

        def report(job: Job, phase: str, share: float) -> None:
            # Phases of one engine follow each other; the engine counts whole when it is done.
            done[job.spec.name] = 1.0 if phase == "done" else max(done.get(job.spec.name, 0.0), 0.9 * share)
            bar.n = sum(done.values())
            bar.set_postfix_str(f"{job.spec.graph}: {phase}")

        return build(bundle, jobs, report)


_RULE = f"(another backend than the first takes a graph over where it saves {WORTH:.0%} of a picture)"
_BAR = "{percentage:3.0f}%|{bar:30}| {elapsed} {postfix}"


def built_page(bundle: Bundle, built: Sequence[Built]) -> Outcome:
    """The engines that now stand, and what they are."""
    rows: list[tuple[str, ...]] = [(*_HEAD, "compiled in", "peak memory")]
    rows += [_built_row(made) for made in built]
    results = [
        {
            "graph": made.engine.spec.graph,
            "name": made.engine.spec.name,
            "precision": made.engine.spec.precision,
            "targets": list(made.targets),
            "cached": made.cached,
            "backend": made.engine.spec.backend,
            "backend_version": made.engine.spec.backend_version,
            "capabilities": list(made.engine.spec.capabilities),
            "bytes": made.engine.bytes,
            "weights_bytes": made.engine.weights_bytes,
            "activation_bytes": made.engine.activation_bytes,
            "build_seconds": made.engine.build_seconds,
            "build_peak_bytes": made.engine.build_peak_bytes,
            "settings": made.engine.spec.settings,
            "measured_seconds": _measured(made),
        }
        for made in built
    ]
    contests = [_contest_line(made) for made in built if made.contest is not None]
    lines = [*aligned(rows), *contests, *([_RULE] if contests else [])]
    return Outcome({"bundle": str(bundle.folder), "engines": results}, lines)


def _measured(made: Built) -> dict[str, float]:
    """Backend → seconds of a run, where engines competed."""
    seconds = {} if made.contest is None else made.contest.seconds
    return {engine.spec.backend: seconds[engine.spec.name] for engine in made.rivals if engine.spec.name in seconds}


def _contest_line(made: Built) -> str:
    """What was measured, and who serves: "denoiser: onnxruntime 12.3 ms, openvino 14.1 ms → onnxruntime"."""
    taken = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in _measured(made).items())
    return f"{made.engine.spec.graph}: {taken} → {made.engine.spec.backend}"


def _built_row(made: Built) -> tuple[str, ...]:
    engine = made.engine
    device = "" if engine.weights_bytes is None else f"{_sum(engine.weights_bytes, engine.activation_bytes)} MB"
    took = "already built" if made.cached else f"{engine.build_seconds:.1f} s"
    peak = f"{engine.build_peak_bytes / 2**30:.2f} GiB" if engine.build_peak_bytes and not made.cached else ""
    size = f"{engine.bytes / _MB:.2f} MB"
    spec, served = engine.spec, ", ".join(made.targets)
    return spec.graph, spec.precision, served, spec.backend, size, device, took, peak


def _sum(weights: int, activation: int | None) -> str:
    return f"{weights / _MB:.1f} + {(activation or 0) / _MB:.1f}"


def dry_run_page(bundle: Bundle, jobs: Sequence[Job]) -> Outcome:
    """What a build would take; builds nothing."""
    predictions = [predict(bundle, job) for job in jobs]
    rows: list[tuple[str, ...]] = [(*_HEAD, "compiles in", "peak memory")]
    rows += [_predicted_row(job, prediction) for job, prediction in zip(jobs, predictions, strict=True)]
    results = [
        {
            "graph": job.spec.graph,
            "name": job.spec.name,
            "precision": job.spec.precision,
            "targets": list(job.targets),
            "backend": job.spec.backend,
            "capabilities": list(job.spec.capabilities),
            **prediction.to_dict(),
        }
        for job, prediction in zip(jobs, predictions, strict=True)
    ]
    lines = [*aligned(rows), *_total(predictions)]
    return Outcome({"bundle": str(bundle.folder), "dry_run": True, "engines": results}, lines)


def _predicted_row(job: Job, prediction: Prediction) -> tuple[str, ...]:
    device = ""
    if prediction.weights_bytes is not None:
        device = f"{_sum(prediction.weights_bytes, prediction.activation_bytes)} MB"
    return (
        job.spec.graph,
        job.spec.precision,
        ", ".join(job.targets),
        job.spec.backend,
        f"~{prediction.engine_bytes / _MB:.2f} MB",
        device,
        f"~{prediction.build_seconds:.1f} s",
        f"~{prediction.build_peak_bytes / 2**30:.2f} GiB",
    )


def _total(predictions: Sequence[Prediction]) -> list[str]:
    """Graphs are compiled one after another: times and sizes add up, memory does not."""
    seconds = sum(prediction.build_seconds for prediction in predictions)
    size = sum(prediction.engine_bytes for prediction in predictions)
    peak = max((prediction.build_peak_bytes for prediction in predictions), default=0)
    free = system_memory()[1]
    room = "" if free is None else f"; {free / 2**30:.1f} GiB are free"
    enough = "" if free is None or peak <= free else ": NOT ENOUGH, close other programs or add swap"
    return [
        f"together: about {seconds:.0f} s, {size / _MB:.0f} MB on disk,"
        f" {peak / 2**30:.1f} GiB of memory at the peak{room}{enough}"
    ]
