"""The demo: the shipped checkpoint becomes a bundle, the bundle is built, pictures are made, judged and shown."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from unipic2_edge.engines.build import build_targets
from unipic2_edge.runtime.bundle import MANIFEST, Bundle
from unipic2_edge.runtime.cli import Outcome
from unipic2_edge.runtime.errors import BundleError, CheckpointError, OutputError
from unipic2_edge.runtime.files import output_errors, write_bytes
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.runtime.request import task_defaults
from unipic2_edge.training.layout import CheckpointFolder

from .machine import machine
from .quality import Settings, editing_quality, generation_quality, score_lines, score_record
from .report import DemoResults, demo_page
from .showcase import SEED, make_showcase
from .startup import measure_startup

#: The shipped checkpoint, beside the training code of a checkout.
CHECKPOINT = Path(__file__).resolve().parents[3] / "training" / "checkpoints" / "shapes-kontext-8step"
STEPS = ("export", "build", "pictures", "scores", "start-up", "report")  # what `done` is called with
_SCORED = 48  # prompts of each task: enough to see that nothing is broken; `bench quality` takes hundreds
_STARTS = 3

Done = Callable[[str], None]


def run_demo(
    workdir: Path, checkpoint: Path = CHECKPOINT, scored: int = _SCORED, done: Done = lambda step: None
) -> Outcome:
    """Make everything in `workdir`: `bundle/`, `pictures/`, `report.html` and `demo.json`, whose content is returned.

    A bundle that stands there is kept while it is whole and made from this checkpoint by this version.

    Raises:
        CheckpointError: the checkpoint is not there.
        OutputError, WorkError: the folder cannot be written, or a step failed.
    """
    if not checkpoint.is_dir():
        raise CheckpointError(f"the shipped checkpoint {checkpoint} is not there", "run the demo from a checkout")
    with output_errors(workdir):
        (workdir / "pictures").mkdir(parents=True, exist_ok=True)
    stages: dict[str, float] = {}
    with _stage("export", stages, done):
        bundle = _bundle(workdir / "bundle", checkpoint)
    with _stage("build", stages, done):
        build_targets(bundle, "cpu")
    pipeline = Pipeline.load(bundle.folder)
    settings = _settings(pipeline, scored)
    with _stage("pictures", stages, done):
        showcase = make_showcase(pipeline, workdir / "pictures")
    with _stage("scores", stages, done):
        generated, edited = generation_quality(pipeline, settings), editing_quality(pipeline, settings)
    with _stage("start-up", stages, done):
        startup = measure_startup(bundle.folder, _STARTS, None)
    results = DemoResults(
        bundle.manifest.source.name, settings, showcase, generated, edited, startup, stages, machine()
    )
    record = _record(results, bundle, workdir)
    write_bytes(workdir / "report.html", demo_page(results).encode())
    write_bytes(workdir / "demo.json", (json.dumps(record, indent=2) + "\n").encode())
    done("report")
    return Outcome(record, _lines(results, workdir))


@contextmanager
def _stage(name: str, stages: dict[str, float], done: Done) -> Iterator[None]:
    start = time.perf_counter()
    yield
    stages[name] = round(time.perf_counter() - start, 3)
    done(name)


def _bundle(folder: Path, checkpoint: Path) -> Bundle:
    """The demo's bundle: the one that stands while it fits, else a new one in its place.

    Raises:
        OutputError: something that is not a bundle stands there.
    """
    source = CheckpointFolder.open(checkpoint)
    if (folder / MANIFEST).is_file():
        standing = _fitting(folder, source.sha256())
        if standing is not None:
            return standing
        with output_errors(folder):
            shutil.rmtree(folder)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} is not the demo's bundle", "remove it, or choose another --workdir")
    # torch and its company take seconds to import, and only an export needs them
    from unipic2_edge.export.builtin_recipes import find_recipe
    from unipic2_edge.export.bundle_writer import write_bundle
    from unipic2_edge.training.checkpoint import Checkpoint

    write_bundle(Checkpoint.open(checkpoint), folder, find_recipe("fp32"))
    return Bundle(folder)


def _fitting(folder: Path, source: str) -> Bundle | None:
    """The bundle in `folder`, if every file of it is whole and it is this checkpoint's, exported by this version."""
    try:
        bundle = Bundle(folder)
        for relative in bundle.manifest.files:
            bundle.path(relative)
    except BundleError:
        return None
    made = (bundle.manifest.source.sha256, bundle.manifest.tools.get("unipic2-edge"))
    return bundle if made == (source, version("unipic2-edge")) else None


def _settings(pipeline: Pipeline, scored: int) -> Settings:
    default = task_defaults(pipeline.manifest, "generate")
    return Settings(scored, default.num_inference_steps, default.guidance_scale, SEED, default.width, default.height)


def _record(results: DemoResults, bundle: Bundle, workdir: Path) -> dict[str, object]:
    """What was made, scores, seconds: `demo.json`."""
    settings, showcase = results.settings, results.showcase
    return {
        "model": results.model,
        "source": bundle.manifest.source.sha256,
        "bundle": "bundle",
        "report": "report.html",
        "pictures": [
            {
                "path": path.relative_to(workdir).as_posix(),
                "text": shown.text,
                "right": shown.verdict.right,
                "reason": shown.verdict.reason,
            }
            for path, shown in zip(showcase.files, [*showcase.generated, *showcase.edited], strict=True)
        ],
        "scores": {"generation": score_record(results.generated.score), "editing": score_record(results.edited.score)},
        "settings": {
            "prompts": settings.prompts,
            "steps": settings.steps,
            "guidance": settings.guidance,
            "seed": settings.seed,
            "size": f"{settings.width}x{settings.height}",
        },
        "seconds": {
            "stages": dict(results.stages),
            "total": round(sum(results.stages.values()), 3),
            "picture": showcase.seconds["generate"].to_dict(),
            "edit": showcase.seconds["edit"].to_dict(),
            "startup": {name: found.to_dict() for name, found in results.startup.items()},
        },
        "machine": dict(results.machine),
    }


def _lines(results: DemoResults, workdir: Path) -> list[str]:
    """The demo for people: scores, seconds, and where to look."""
    showcase = results.showcase
    return [
        *score_lines("generation", results.generated.score),
        *score_lines("editing", results.edited.score),
        f"{showcase.seconds['generate'].median:.2f} s a picture, {showcase.seconds['edit'].median:.2f} s an edit, "
        f"{results.startup['first_picture'].median:.2f} s from process start to the first picture",
        f"{len(showcase.files)} pictures in {workdir / 'pictures'}; the report: {workdir / 'report.html'}",
    ]
