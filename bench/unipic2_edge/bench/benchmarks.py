"""The benchmarks behind `bench KIND`: arguments in, a report out."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.errors import RequestError
from unipic2_edge.runtime.memory_plan import parse_memory
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.runtime.progress import progress
from unipic2_edge.runtime.request import task_defaults

from .compare_command import bench_compare as bench_compare
from .judged.commands import is_judged, judged_report
from .latency.commands import bench_latency as bench_latency
from .options import cpu_threads
from .quality import (
    Settings,
    batches,
    editing_quality,
    generation_quality,
    reconstruction_quality,
    score_lines,
    score_record,
    understanding_quality,
)
from .results import Report
from .roofline.commands import bench_predict as bench_predict
from .roofline.commands import bench_roofline as bench_roofline
from .throughput.commands import bench_throughput as bench_throughput

if TYPE_CHECKING:
    from unipic2_edge.training.checkpoint import Checkpoint


def bench_quality(arguments: argparse.Namespace) -> Report:
    """Scores of the autoencoder, of all tasks, and of generation on held-out combinations, with 95 % intervals.

    Of real models GenEval's, or a judge's of edits.
    """
    judged = is_judged(arguments)
    pipeline = Pipeline.load(arguments.bundle)
    if judged:
        return judged_report(arguments, _identity(pipeline), pipeline)
    settings, answers = _settings(pipeline, arguments), pipeline.manifest.query is not None
    with progress((4 if answers else 3) * batches(settings.prompts), "batch", arguments) as advance:
        scores = {
            "reconstruction": reconstruction_quality(pipeline, settings),
            "generation": generation_quality(pipeline, settings, done=advance).score,
            "editing": editing_quality(pipeline, settings, done=advance).score,
            "held-out combinations": generation_quality(pipeline, settings, True, advance).score,
        }
        if answers:
            scores["understanding"] = understanding_quality(pipeline, settings, advance)
    lines = [line for name, score in scores.items() for line in score_lines(name, score)]
    results: dict[str, object] = {name: score_record(score) for name, score in scores.items()}
    return Report("quality", _record(arguments, pipeline, settings), results, lines)


def bench_words(arguments: argparse.Namespace) -> Report:
    """A first and a second look at pictures, and answers, against PyTorch in the same run."""
    import torch

    from unipic2_edge.training.metaquery.checkpoint import MetaqueryCheckpoint
    from unipic2_edge.training.metaquery.pipeline import MetaqueryPipeline

    from .words import measure_words, words_lines, words_record

    checkpoint = MetaqueryCheckpoint.open(arguments.checkpoint)
    threads = cpu_threads(arguments.threads)
    pipeline = Pipeline.load(arguments.bundle, threads=threads)
    _check_source(pipeline, checkpoint, arguments)
    torch.set_num_threads(threads)
    settings = _settings(pipeline, arguments)
    with progress(settings.prompts + 1, "picture", arguments) as advance:
        measured = measure_words(pipeline, MetaqueryPipeline.load(checkpoint), settings, advance)
    record = _record(arguments, pipeline, settings) | {"threads": threads, "pytorch": "eager, float32"}
    return Report("words", record, words_record(measured), words_lines(measured))


def _check_source(pipeline: Pipeline, checkpoint: Checkpoint, arguments: argparse.Namespace) -> None:
    if checkpoint.sha256() != pipeline.manifest.source.sha256:
        raise RequestError(f"{arguments.bundle} was not made from {arguments.checkpoint}", "give its own checkpoint")


def bench_startup(arguments: argparse.Namespace) -> Report:
    """Seconds of fresh processes."""
    from .startup import measure_startup

    bundle = Bundle(arguments.bundle)  # a wrong folder is said before the first run
    if arguments.runs < 1:
        raise RequestError(f"{arguments.runs} runs measure nothing", "use 1 or more")
    with progress(4 * arguments.runs, "process", arguments) as advance:
        measured = measure_startup(arguments.bundle, arguments.runs, arguments.steps, advance)
    lines = [
        f"{name}: {s.median:.3f} s (least {s.least:.3f}, most {s.most:.3f}, {s.count} runs)"
        for name, s in measured.items()
    ]
    settings: dict[str, object] = {"bundle": bundle.manifest.name, "runs": arguments.runs, "steps": arguments.steps}
    return Report("startup", settings, {name: s.to_dict() for name, s in measured.items()}, lines)


def _settings(pipeline: Pipeline, arguments: argparse.Namespace) -> Settings:
    if arguments.prompts < 1:
        raise RequestError(f"{arguments.prompts} prompts measure nothing", "use 1 or more")
    default = task_defaults(pipeline.manifest, "generate")
    return Settings(
        arguments.prompts,
        arguments.steps or default.num_inference_steps,
        default.guidance_scale if arguments.guidance is None else arguments.guidance,
        arguments.seed,
        default.width,
        default.height,
    )


def _record(arguments: argparse.Namespace, pipeline: Pipeline, settings: Settings) -> dict[str, object]:
    return _identity(pipeline) | {
        "prompts": settings.prompts,
        "steps": settings.steps,
        "guidance": settings.guidance,
        "seed": settings.seed,
        "size": f"{settings.width}x{settings.height}",
    }


def _identity(pipeline: Pipeline) -> dict[str, object]:
    manifest = pipeline.manifest
    return {"bundle": manifest.name, "source": manifest.source.sha256, "recipe": manifest.recipe}


def bench_engines(arguments: argparse.Namespace) -> Report:
    """Every graph of the bundles compiled for every target, with what it took, what it is and what was predicted."""
    from unipic2_edge.engines.engine_set import Options
    from unipic2_edge.engines.sizes import default_sizes
    from unipic2_edge.engines.targets import targets_of

    from .engine_table import engine_rows, prediction_errors, table

    targets, rows = targets_of(arguments.targets), []
    with progress(len(arguments.bundle), "bundle", arguments) as advance:
        for folder in arguments.bundle:
            bundle = Bundle(folder)
            options = Options(sizes=default_sizes(bundle.manifest))
            rows += engine_rows(bundle, targets, options)
            advance(folder.name)
    errors = prediction_errors(rows)
    settings: dict[str, object] = {
        "bundles": [folder.name for folder in arguments.bundle],
        "targets": [target.name for target in targets],
        "sizes": options.sizes.describe(),
    }
    said = ", ".join(f"{name} {error:.0%}" for name, error in errors.items())
    lines = [*table(rows), f"largest error of what was predicted: {said}"]
    results: dict[str, object] = {"rows": [row.to_dict() for row in rows], "prediction_errors": errors}
    return Report("engines", settings, results, lines)


def bench_memory(arguments: argparse.Namespace) -> Report:
    """What cards of some sizes hold at once, computed from compiled engines."""
    from unipic2_edge.engines.targets import find_target

    from .memory_ladder import assumed, bundle_needs, ladder, ladder_table

    target = find_target(arguments.target)
    needs = [need for folder in arguments.bundle for need in bundle_needs(Bundle(folder), target)]
    needs = assumed(needs, dict(_assumption(text) for text in arguments.assume))
    rungs = ladder(needs, [parse_memory(f"{part}GB") for part in arguments.budgets.split(",")])
    settings: dict[str, object] = {
        "bundles": [folder.name for folder in arguments.bundle],
        "target": target.name,
        "assume": arguments.assume,
    }
    results: dict[str, object] = {
        "needs": [asdict(need) for need in needs],
        "ladder": [asdict(rung) for rung in rungs],
    }
    return Report("memory", settings, results, ladder_table(rungs))


def bench_serve(arguments: argparse.Namespace) -> Report:
    """A server under load: its speed over the bare pipeline's, a crowd, endurance, and slow clients."""
    from .serving import Settings as LoadSettings
    from .serving import measure, served_lines, served_record

    manifest = Bundle(arguments.bundle).manifest
    if min(arguments.requests, arguments.pictures, arguments.rounds, arguments.batch) < 1:
        raise RequestError("a load of nothing measures nothing", "give numbers above 0")
    settings = LoadSettings(
        requests=arguments.requests,
        steps=arguments.steps or task_defaults(manifest, "generate").num_inference_steps,
        pictures=arguments.pictures,
        rounds=arguments.rounds,
        batch=arguments.batch,
        threads=cpu_threads(arguments.threads),
        slow=arguments.slow,
    )
    with progress(settings.rounds + 4, "measurement", arguments) as advance:
        served = measure(arguments.bundle, settings, advance)
    recorded: dict[str, object] = {"bundle": manifest.name, "recipe": manifest.recipe, **asdict(settings)}
    return Report("serve", recorded, served_record(served), served_lines(served))


def bench_recipes(arguments: argparse.Namespace) -> Report:
    """Export recipes against fp32: points lost on the same prompts, drift, bytes, seconds, and who runs them."""
    from unipic2_edge.training.checkpoint import Checkpoint

    from .recipe_table import Settings as TableSettings
    from .recipe_table import recipe_rows, row_record, table

    settings = TableSettings(arguments.prompts, arguments.precision, arguments.threads)
    checkpoint, names = Checkpoint.open(arguments.checkpoint), arguments.recipes.split(",")
    with progress(None, "step", arguments) as advance:
        rows = recipe_rows(checkpoint, names, settings, arguments.workdir, advance)
    recorded: dict[str, object] = {"checkpoint": arguments.checkpoint.name, **asdict(settings)}
    return Report("recipes", recorded, {"rows": [row_record(row) for row in rows]}, table(rows))


def _assumption(text: str) -> tuple[str, str]:
    """Graph and amount of a text like "text_encoder_3=4.8GB"."""
    graph, equals, amount = text.partition("=")
    if not (graph and equals and amount):
        raise RequestError(f"{text!r} is no assumption", "give one like text_encoder_3=4.8GB")
    return graph, amount
