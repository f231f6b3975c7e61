"""training's commands: `train`, `init`, `blend` and `pull`."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from .errors import RequestError

if TYPE_CHECKING:
    from .recipe import Recipe


@dataclass
class Outcome:
    """What a command reports: `result` for --json, `lines` for people."""

    result: dict[str, object]
    lines: list[str] = field(default_factory=list)


def train_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `train`."""
    parser.add_argument("recipe", metavar="RECIPE", help="a .toml file, or the name of one in training/recipes/")
    parser.add_argument("--output", metavar="DIR", help="where the run's state, logs, samples and result go")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a field, e.g. schedule.steps=1000",
    )
    dry = parser.add_argument_group("dry run: what it would take, without weights, data or a GPU")
    dry.add_argument("--dry-run", action="store_true", help="say what would be trained, its memory, time and disk")
    dry.add_argument("--gpus", type=int, default=1, metavar="N", help="in all, sharding over them (1)")
    dry.add_argument("--gpu-memory", type=float, default=80, metavar="GB", help="of each (80)")
    dry.add_argument("--gpu-tflops", type=float, metavar="T", help="its peak (recipe's logging.peak_tflops, or 989)")
    dry.add_argument("--mfu", type=float, default=0.4, metavar="SHARE", help="of the peak that is reached (0.4)")


def train(arguments: argparse.Namespace) -> Outcome:
    """Run a recipe to its end, going on from its last saved state.

    Raises:
        RecipeError: the recipe is wrong.
        InterruptedWorkError: SIGINT or SIGTERM; the state is saved.
    """
    from .recipe import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.set)
    if arguments.dry_run:
        return _dry_run(recipe, arguments)
    output = Path(arguments.output or recipe.output or f"runs/{recipe.name}")
    if recipe.threads:
        os.environ["OMP_NUM_THREADS"] = str(recipe.threads)
    from .loop.trainer import Trainer
    from .stages import make_stage

    trainer = Trainer(recipe, make_stage(recipe, output), output, progress=not arguments.quiet)
    scores = trainer.run()
    if not trainer.accelerator.is_main_process:
        return Outcome({"recipe": recipe.name, "output": str(output), "process": trainer.accelerator.process_index})
    lines = [f"{recipe.name}: {recipe.schedule.steps} steps done, in {output}"]
    lines += [f"  {name}: {value:.4g}" for name, value in (scores | trainer.pace).items()]
    result: dict[str, object] = {"recipe": recipe.name, "output": str(output), "steps": recipe.schedule.steps}
    return Outcome(result | {"scores": scores, "pace": trainer.pace}, lines)


def _dry_run(recipe: Recipe, arguments: argparse.Namespace) -> Outcome:
    """What the recipe would take.

    Raises:
        RequestError: hardware that cannot be.
    """
    from .planning.dry_run import Hardware, dry_run

    tflops = arguments.gpu_tflops or recipe.logging.peak_tflops or Hardware.tflops
    if min(arguments.gpus, arguments.gpu_memory, tflops) <= 0 or not 0 < arguments.mfu <= 1:
        raise RequestError("--gpus, --gpu-memory and --gpu-tflops are over 0, --mfu is within 0…1", "correct them")
    found = dry_run(recipe, Hardware(arguments.gpus, arguments.gpu_memory, tflops, arguments.mfu))
    return Outcome(found.result(), found.lines())


def init_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `init`."""
    parser.add_argument(
        "config", metavar="CONFIG", help="unipic2-sd3.5m-kontext, unipic2-metaquery, or shapes-… and tiny-… of either"
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="the folder to write")
    parser.add_argument(
        "--components",
        metavar="A,B",
        help="only these of transformer, vae; text_encoder, text_encoder_2, text_encoder_3 (kontext); conditioner, "
        "qwen2_5_vl (metaquery)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")


def init(arguments: argparse.Namespace) -> Outcome:
    """Write random weights in the published layout.

    Raises:
        RequestError: no such config or component.
        OutputError: the folder exists and is not empty.
    """
    import torch

    from .init import init_checkpoint

    components = tuple(arguments.components.split(",")) if arguments.components else None
    dtype = getattr(torch, arguments.dtype)
    checkpoint = init_checkpoint(arguments.config, arguments.checkpoint, components, arguments.seed, dtype)
    size = sum(path.stat().st_size for path in checkpoint.folder.rglob("*") if path.is_file())
    result: dict[str, object] = {
        "checkpoint": str(checkpoint.folder),
        "components": [part for part in checkpoint.layout.models if checkpoint.has(part)],
        "bytes": size,
    }
    return Outcome(result, [f"{checkpoint.folder}: random {arguments.config}, {size / 1e6:.1f} MB"])


def blend_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `blend`."""
    parser.add_argument("first", metavar="FIRST", type=Path, help="a Kontext checkpoint")
    parser.add_argument("second", metavar="SECOND", type=Path, help="one of the same ancestor; gives all other parts")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="the folder to write")
    parser.add_argument("--share", type=float, metavar="S", help="of SECOND's weights (0.5; with --since 1)")
    parser.add_argument(
        "--since", metavar="ORIGIN", type=Path, help="add to FIRST what SECOND learned since it was this checkpoint"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="that the denoiser is stored in"
    )


def blend(arguments: argparse.Namespace) -> Outcome:
    """Write a denoiser between two others, or one plus what another learned.

    Raises:
        RecipeError, CheckpointError, OutputError: see `blend_checkpoints`.
    """
    import torch

    from .blend import blend_checkpoints

    since, second = arguments.since, arguments.second
    share = arguments.share if arguments.share is not None else 0.5 if since is None else 1.0
    dtype = getattr(torch, arguments.dtype)
    blend_checkpoints(arguments.first, second, share, arguments.checkpoint, since, dtype)
    added = f"{share:g} of {second}, the rest {arguments.first}"
    learned = f"{arguments.first} and {share:g} of what {second} learned since {since}"
    result = {"checkpoint": str(arguments.checkpoint), "share": share, "since": str(since) if since else None}
    return Outcome(result, [f"{arguments.checkpoint}: {learned if since else added}"])


def pull_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pull`."""
    parser.add_argument("repository", metavar="REPO_ID", help="OWNER/NAME on the hub, Kontext or MetaQuery")
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        type=Path,
        nargs="?",
        help="the folder to make; without it the files are used where the hub's cache keeps them",
    )
    parser.add_argument("--revision", metavar="NAME", help="a branch, tag or commit (the default branch)")
    parser.add_argument("--subfolder", metavar="DIR", help="of the repository, where it holds several checkpoints")
    parser.add_argument(
        "--qwen",
        metavar="REPO_ID",
        help="the language model of a MetaQuery checkpoint (Qwen/Qwen2.5-VL-7B-Instruct)",
    )
    parser.add_argument("--qwen-revision", metavar="NAME", help="of that repository")
    parser.add_argument("--token", metavar="TOKEN", help="for gated and private repositories (HF_TOKEN, or the login)")
    parser.add_argument("--copy", action="store_true", help="copy the weights from the cache, instead of linking them")


def pull(arguments: argparse.Namespace) -> Outcome:
    """Fetch a checkpoint from the hub, or from its local cache.

    Raises:
        RequestError, CheckpointError, OutputError, WorkError: see `hub.pull.pull`.
    """
    hub = _hub()
    options = hub.PullOptions(
        revision=arguments.revision,
        subfolder=arguments.subfolder,
        qwen=arguments.qwen or hub.DEFAULT_QWEN,
        qwen_revision=arguments.qwen_revision,
        token=arguments.token,
        copy=arguments.copy,
        quiet=arguments.quiet or arguments.json,
    )
    pulled = hub.pull(arguments.repository, arguments.checkpoint, options)
    result: dict[str, object] = {
        "checkpoint": str(pulled.folder),
        "variant": pulled.variant,
        "commits": pulled.commits,
        "files": pulled.files,
        "linked": pulled.linked,
        "bytes": pulled.size,
    }
    where = "in the cache" if arguments.checkpoint is None else f"{pulled.linked} of them linked to the cache"
    lines = [f"{pulled.folder}: {pulled.variant}, {pulled.files} files, {where}, {pulled.size / 1e6:.1f} MB"]
    return Outcome(result, lines + [f"  {name} at {commit}" for name, commit in pulled.commits.items()])


def _hub() -> ModuleType:
    """The module that pulls; it needs a huggingface_hub as new as its extra names.

    Raises:
        RequestError: the one that is installed is older.
    """
    try:
        from .hub import pull as hub
    except ModuleNotFoundError:
        raise  # the command line says which extra brings it
    except ImportError as error:
        raise RequestError(
            f"the huggingface_hub that is installed is too old: {error.msg}",
            'bring it up to date with: pip install --upgrade "unipic2-edge[hub]"',
        ) from error
    return hub
