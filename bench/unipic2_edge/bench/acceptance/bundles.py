"""The steps that make what others run: random checkpoints, bundles, engines; they stay in the work folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from unipic2_edge.engines.build import Built, compile_jobs
from unipic2_edge.engines.engine_set import Job as EngineJob
from unipic2_edge.engines.engine_set import Options, engine_set
from unipic2_edge.engines.prediction import predict
from unipic2_edge.engines.sizes import Sizes, default_sizes, limited
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.device import system_memory
from unipic2_edge.runtime.errors import MissingDependencyError, RequestError

from .step import Job, Made, Setting, SkippedError
from .ways import placed, target_for

_ROOM = 1.3  # memory and disk wanted for each byte that is foreseen


def kept(folder: Path, again: bool, make: Callable[[], object]) -> bool:
    """Make a folder unless it stands (whole: its makers rename it into place); whether it was made."""
    if again:
        shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    for stray in folder.parent.glob(".tmp-*"):  # of a run that was killed
        shutil.rmtree(stray, ignore_errors=True)
    make()
    return True


def small_checkpoint(setting: Setting, answers: bool = False) -> Path:
    """The small model's checkpoint, or the one that answers; without any, a random tiny one.

    Raises:
        OutputError, WorkError: it cannot be written.
    """
    given = setting.words if answers else setting.small
    if given is not None:
        return Path(given)
    from unipic2_edge.training.init import init_checkpoint

    folder = setting.folder / "small" / "checkpoint"
    kept(folder, False, lambda: init_checkpoint("tiny-kontext", folder))
    return folder


def small_bundle(setting: Setting, recipe: str, answers: bool = False) -> Path:
    """Where a bundle of the small model stands."""
    return setting.folder / ("words" if answers else "small") / recipe


def export_small(job: Job) -> Made:
    """Export the small model by the recipe of the arguments.

    Raises:
        CheckpointError, OutputError, WorkError: see `export_bundle`.
    """
    from unipic2_edge.export.builtin_recipes import find_recipe
    from unipic2_edge.export.bundle_writer import write_bundle
    from unipic2_edge.training.metaquery.checkpoint import open_checkpoint

    recipe, answers = job.step.arguments["recipe"], job.step.arguments.get("answers", False)
    folder = small_bundle(job.setting, recipe, answers)
    checkpoint = open_checkpoint(small_checkpoint(job.setting, answers))
    kept(folder, job.again, lambda: write_bundle(checkpoint, folder, find_recipe(recipe)))
    size = sum(entry.bytes for entry in Bundle(folder).manifest.files.values())
    name = checkpoint.name if job.setting.small is not None or answers else "tiny-kontext, random weights"
    return Made(results={"model": name, "bytes": size}, lines=[f"{name}: {size / 1e6:.1f} MB in {recipe}"])


def build_small(job: Job) -> Made:
    """Compile every graph of a small model's bundle; raises as `build_engines`."""
    arguments = job.step.arguments
    folder = small_bundle(job.setting, arguments["recipe"], arguments.get("answers", False))
    return build_engines(job.setting, Bundle(folder), arguments["backend"], None)


def build_engines(setting: Setting, bundle: Bundle, backend: str, sizes: Sizes | None) -> Made:
    """Compile every graph of a bundle through one backend, and see whether the device takes the engines.

    Raises:
        SkippedError: the backend does not load, or does not serve the device or the precision; the compiler would
            want more memory than there is; the device does not take the engines.
        WorkError: a graph cannot be compiled.
    """
    target = target_for(setting, backend)
    options = Options(
        sizes=sizes or limited(default_sizes(bundle.manifest), None, 1), threads=setting.threads, backend=backend
    )
    try:
        jobs = engine_set(bundle, [target], options)
    except MissingDependencyError:
        raise
    except RequestError as error:  # before any work: the pair of device and precision is impossible
        raise SkippedError(f"unsupported: {error.problem}") from error
    _check_memory(bundle, jobs)
    made = compile_jobs(bundle, jobs)
    placed(setting, bundle, backend)
    rows = [_row(built) for built in made]
    lines = [f"{built.engine.spec.graph}: {built.engine.build_seconds} s" for built in made]
    return Made(results={"target": target.name, "sizes": options.sizes.describe(), "engines": rows}, lines=lines)


def _row(built: Built) -> dict[str, object]:
    engine = built.engine
    names = ("bytes", "weights_bytes", "activation_bytes", "build_peak_bytes")
    row = {name: getattr(engine, name) for name in names}
    return {
        "graph": engine.spec.graph,
        "seconds": engine.build_seconds,
        "version": engine.spec.backend_version,
        "sha256": engine.sha256,
        "cached": built.cached,
        **row,
    }


def _check_memory(bundle: Bundle, jobs: list[EngineJob]) -> None:
    wanted = max((predict(bundle, job).build_peak_bytes or 0 for job in jobs), default=0)
    _, free = system_memory()
    if free is not None and wanted > free:
        raise SkippedError(f"too little memory: compiling takes about {wanted / 1e9:.1f} GB, {free / 1e9:.1f} are free")


def check_room(folder: Path, amount: int, what: str) -> None:
    """Refuse to begin what memory or disk will not hold.

    Raises:
        SkippedError: there is less than the amount in bytes, with some room.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _, memory = system_memory()
    for kind, free in (("memory", memory), ("disk", shutil.disk_usage(folder).free)):
        if free is not None and free < _ROOM * amount:
            raise SkippedError(
                f"too little {kind}: {what} takes {_ROOM * amount / 1e9:.1f} GB, {free / 1e9:.1f} are free;"
                " fewer --layers take less"
            )
