"""`bench compare`: bundles, a checkpoint through peers, or stored reports, side by side.

unipic2-edge bench compare BUNDLE --checkpoint DIR
unipic2-edge bench compare BUNDLE BUNDLE --checkpoint DIR --backends onnxruntime,openvino --peers eager,compile,optimum
    --python optimum=/path/to/venv/bin/python
unipic2-edge bench compare BUNDLE --checkpoint DIR --tasks step --size 512x384 --one-at-a-time 2
unipic2-edge bench compare before.json after.json --fail-if-slower 5%
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.errors import RequestError, WorkError
from unipic2_edge.runtime.pictures import parse_size
from unipic2_edge.runtime.progress import progress
from unipic2_edge.runtime.request import task_defaults

from .options import add_threads, cpu_threads
from .results import Report

if TYPE_CHECKING:
    from .peers.entrants import Setting
    from .peers.jobs import Space
    from .quality import Settings


def add_compare(kinds: Any) -> argparse.ArgumentParser:
    """The command's arguments."""
    from .peers.entrants import DEFAULT, KINDS

    parser: argparse.ArgumentParser = kinds.add_parser(
        "compare", help="bundles, a checkpoint through peers, or reports, side by side"
    )
    parser.add_argument("bundle", metavar="BUNDLE|REPORT.json", type=Path, nargs="*")
    parser.add_argument("--checkpoint", metavar="DIR", type=Path, help="what the peers work from")
    parser.add_argument("--peers", metavar="A,B", help=f"of {', '.join(KINDS)} (default: {DEFAULT}); the first is 1×")
    parser.add_argument("--backends", metavar="A,B", default="auto", help="of bundles (default: as they are served)")
    parser.add_argument("--tasks", metavar="A,B", default="generate,edit", help="of generate, edit, step")
    parser.add_argument("--prompts", type=int, default=12, help="timed jobs of each task (default: 12)")
    parser.add_argument("--size", metavar="WxH", help="of pictures (default: the model's)")
    parser.add_argument("--context", type=int, metavar="N", default=333, help="tokens of text of a step")
    add_threads(parser, " of each")
    parser.add_argument("--device", default="cpu", help="cpu (default), or gpu")
    parser.add_argument("--python", metavar="PEER=PATH", action="append", default=[], help="a peer's own interpreter")
    parser.add_argument(
        "--one-at-a-time",
        type=int,
        metavar="N",
        nargs="?",
        const=1,
        help="a peer does N jobs in its turn and leaves memory: for large models",
    )
    parser.add_argument("--together", action="store_true", help="in one process, not in one for each peer")
    parser.add_argument("--fail-if-slower", metavar="5%", help="of two reports: exit with 1 if the second is slower")
    return parser


def bench_compare(arguments: argparse.Namespace) -> Report:
    """Rows of all peers in all tasks, or what lies between stored reports.

    Raises:
        RequestError: nothing to compare, no such peer, backend or task, a bundle that was made from another checkpoint.
        BundleError, CheckpointError: a folder is damaged.
        WorkError: no peer did its jobs, or a report is slower than may be.
    """
    if arguments.bundle and all(path.suffix == ".json" for path in arguments.bundle):
        from .compare_reports import compare_reports

        return compare_reports(arguments.bundle, arguments.fail_if_slower)
    if arguments.fail_if_slower is not None:
        raise RequestError("--fail-if-slower is for stored reports", "give two files that `bench … -o` wrote")
    return _compare_peers(arguments)


@dataclass(frozen=True)
class _Run:
    """What a run is of: who takes part, on which jobs."""

    setting: Setting
    settings: Settings
    space: Space


def _compare_peers(arguments: argparse.Namespace) -> Report:
    from .compare import measure, reference_of
    from .comparison import comparison_lines, comparison_record
    from .peers.doors import ProcessDoor, open_inside
    from .peers.entrants import DEFAULT, bundle_entrants, checkpoint_entrant, peer_names
    from .peers.jobs import jobs_of

    run = _run(arguments)
    checkpoint: Path | None = arguments.checkpoint
    names = peer_names(arguments.peers or DEFAULT)
    entrants = [] if checkpoint is None else [checkpoint_entrant(name, checkpoint, run.setting) for name in names]
    entrants += bundle_entrants(arguments.bundle, arguments.backends.split(","), run.setting)
    tasks = {
        task: jobs_of(task, arguments.prompts, run.settings, run.space, arguments.context) for task in run.setting.tasks
    }
    repeats = arguments.one_at_a_time
    turns = -(-arguments.prompts // (repeats or 1)) * len(tasks) * len(entrants)
    with progress(turns, "turn", arguments) as advance:
        rows = measure(entrants, tasks, open_inside if arguments.together else ProcessDoor, repeats, advance)
    if all(reference_of(found) is None for found in rows.values()):
        reasons = "; ".join(f"{row.entrant.name}: {row.reason}" for found in rows.values() for row in found)
        raise WorkError(f"no peer did its jobs: {reasons}", "mend one of them, or choose others")
    return Report("compare", _record(arguments, run), comparison_record(rows), comparison_lines(rows))


def _run(arguments: argparse.Namespace) -> _Run:

    from .peers.entrants import Setting, interpreters_of, peer_names
    from .peers.jobs import space_of_bundle, space_of_checkpoint
    from .peers.peer import TASKS

    tasks = tuple(dict.fromkeys(arguments.tasks.split(",")))
    unknown = next((task for task in tasks if task not in TASKS), None)
    if unknown is not None:
        raise RequestError(f"there is no task {unknown!r}", f"use some of {', '.join(TASKS)}")
    if arguments.checkpoint is None and not arguments.bundle:
        raise RequestError("there is nothing to compare", "give bundles, --checkpoint DIR, or two reports")
    if arguments.prompts < 1 or (arguments.one_at_a_time or 1) < 1:
        raise RequestError("nothing measures nothing", "use 1 or more --prompts, and 1 or more jobs in a turn")
    if arguments.peers is not None:
        peer_names(arguments.peers)
        if arguments.checkpoint is None:
            raise RequestError("peers work from a checkpoint", "give it with --checkpoint DIR")
    threads = cpu_threads(arguments.threads)
    setting = Setting(tasks, threads, arguments.device, interpreters_of(arguments.python))
    bundles = [Bundle(folder) for folder in arguments.bundle]
    if arguments.checkpoint is not None:
        space = space_of_checkpoint(arguments.checkpoint)
        _check_sources(bundles, arguments.checkpoint)
    else:
        space = space_of_bundle(bundles[0])
    return _Run(setting, _settings(arguments, bundles), space)


def _check_sources(bundles: list[Bundle], checkpoint: Path) -> None:
    if not bundles:
        return
    from unipic2_edge.training.layout import CheckpointFolder

    source = CheckpointFolder.open(checkpoint, partial=True).sha256()
    for bundle in bundles:
        if bundle.manifest.source.sha256 != source:
            raise RequestError(f"{bundle.folder} was not made from {checkpoint}", "give its own checkpoint")


def _settings(arguments: argparse.Namespace, bundles: list[Bundle]) -> Settings:
    """What is asked for, else the first bundle's defaults, else the checkpoint's."""
    from .quality import Settings

    if bundles:
        default = task_defaults(bundles[0].manifest, "generate")
    else:
        from unipic2_edge.export.host_files import task_defaults as defaults_of
        from unipic2_edge.training.metaquery.checkpoint import open_checkpoint

        default = defaults_of(open_checkpoint(arguments.checkpoint, partial=True))["generate"]
    width, height = parse_size(arguments.size) if arguments.size else (default.width, default.height)
    return Settings(
        arguments.prompts,
        arguments.steps or default.num_inference_steps,
        default.guidance_scale if arguments.guidance is None else arguments.guidance,
        arguments.seed,
        width,
        height,
    )


def _record(arguments: argparse.Namespace, run: _Run) -> dict[str, object]:
    settings, stepping = run.settings, "step" in run.setting.tasks
    return {
        "checkpoint": None if arguments.checkpoint is None else arguments.checkpoint.resolve().name,
        "bundles": [folder.resolve().name for folder in arguments.bundle],
        "tasks": list(run.setting.tasks),
        "prompts": settings.prompts,
        "steps": settings.steps,
        "guidance": settings.guidance,
        "seed": settings.seed,
        "size": f"{settings.width}x{settings.height}",
        "context": arguments.context if stepping else None,
        "threads": run.setting.threads,
        "device": run.setting.device,
        "one_at_a_time": arguments.one_at_a_time,
        "together": arguments.together,
    }
