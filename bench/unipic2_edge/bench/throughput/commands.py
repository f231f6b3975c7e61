"""`bench throughput`: its arguments, and from arguments to a report.

unipic2-edge bench throughput BUNDLE --batches 1,2,4,8 --concurrency 1,2 -o throughput.json
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipic2_edge.runtime.errors import RequestError

from ..options import add_threads, cpu_threads, numbers

if TYPE_CHECKING:
    from unipic2_edge.runtime.bundle import Manifest

    from ..results import Report
    from .load import Load
    from .measure import Settings


def add_throughput(kinds: Any) -> argparse.ArgumentParser:
    """The command; returned for what all kinds of `bench` have in common."""
    parser: argparse.ArgumentParser = kinds.add_parser("throughput", help="pictures a second and a joule, by batch")
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, nargs="+")
    parser.add_argument("--batches", metavar="N,N", default="1,2,4,8", help="pictures at once (default: 1,2,4,8)")
    parser.add_argument("--concurrency", metavar="N,N", default="1", help="pipelines at once (default: 1)")
    parser.add_argument("--task", choices=("generate", "edit"), default="generate")
    parser.add_argument("--size", metavar="WxH", default="", help="default: the bundle's")
    parser.add_argument("--steps", metavar="N", default="", help="default: the bundle's")
    parser.add_argument("--guidance", type=float, metavar="G", help="default: the bundle's")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="bursts of each setting (default: 5)")
    parser.add_argument("--seconds", type=float, default=3, metavar="S", help="of a burst, about (default: 3)")
    parser.add_argument("--memory", metavar="8GB", help="of the GPU, for each pipeline")
    parser.add_argument("--device", metavar="NAME", default="auto")
    add_threads(parser, ", shared")
    return parser


def bench_throughput(arguments: argparse.Namespace) -> Report:
    """Pictures a second and a joule for every batch and number of pipelines at once.

    Raises:
        UserError: a bundle cannot be opened, a setting is none, or no setting can be run.
    """
    from unipic2_edge.runtime.bundle import Bundle
    from unipic2_edge.runtime.progress import progress

    from ..identity import bundle_labels
    from ..results import Report
    from .measure import measure
    from .record import energy_record, load_record, throughput_lines

    settings = _settings(arguments)
    folders = bundle_labels(arguments.bundle)
    loads = _loads(arguments, {label: Bundle(folder).manifest for label, folder in folders.items()})
    with progress(len(loads) * (settings.rounds + 1), "burst", arguments) as advance:
        found = measure(folders, loads, settings, advance)
    points, energy = [load_record(one) for one in found.loads], energy_record(found)
    results: dict[str, object] = {"points": points, "energy": energy, "bundles": found.identities}
    recorded: dict[str, object] = {
        "bundles": list(folders),
        "task": arguments.task,
        "device": settings.device,
        "threads": settings.threads,
        "memory": settings.memory,
        "rounds": settings.rounds,
        "seconds": settings.seconds,
        "interleaved": True,
        "prompts": "every picture another one",
    }
    return Report("throughput", recorded, results, throughput_lines(points, energy))


def _loads(arguments: argparse.Namespace, manifests: dict[str, Manifest]) -> list[Load]:
    """Every bundle with every batch and number of pipelines.

    Raises:
        RequestError: a number below 1, or a list that is none.
    """
    from ..latency.point import Sweep
    from .load import Load

    batches = numbers(arguments.batches, "--batches")
    at_once = numbers(arguments.concurrency, "--concurrency")
    if not batches or not at_once or min(*batches, *at_once) < 1:
        raise RequestError("a load of nothing measures nothing", "use 1 or more --batches and --concurrency")
    sweep = Sweep(
        tasks=(arguments.task,),
        sizes=(arguments.size,) if arguments.size else (),
        steps=numbers(arguments.steps, "--steps"),
        memory=(arguments.memory,) if arguments.memory else (),
        guidance=arguments.guidance,
    )
    return [Load(point, *each) for point in sweep.points(manifests) for each in product(batches, at_once)]


def _settings(arguments: argparse.Namespace) -> Settings:
    from .measure import Settings

    if arguments.rounds < 1 or arguments.seconds <= 0:
        raise RequestError("no bursts measure nothing", "use 1 or more --rounds, and --seconds above 0")
    return Settings(
        device=arguments.device,
        threads=cpu_threads(arguments.threads),
        memory=arguments.memory,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
    )
