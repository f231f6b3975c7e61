"""`bench latency`: its arguments, and from arguments to a report.

unipic2-edge bench latency BUNDLE -o latency.json
unipic2-edge bench latency FP32 INT8 --sizes 64x64,96x64 --steps 28,8,4 --tasks generate,edit
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipic2_edge.runtime.errors import RequestError

from ..options import add_threads, cpu_threads, listed, numbers

if TYPE_CHECKING:
    from ..results import Report
    from .measure import Settings, Timed
    from .point import Sweep


def add_latency(kinds: Any) -> argparse.ArgumentParser:
    """The command; returned for what all kinds of `bench` have in common."""
    parser: argparse.ArgumentParser = kinds.add_parser("latency", help="each stage's seconds, cold start, first runs")
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, nargs="+")
    parser.add_argument("--tasks", metavar="A,B", default="", help="of generate, edit, describe (default: all it can)")
    parser.add_argument("--sizes", metavar="WxH,WxH", default="", help="default: the bundle's")
    parser.add_argument("--steps", metavar="N,N", default="", help="default: the bundle's")
    parser.add_argument("--memory-plans", metavar="8GB,4GB", default="", help="of the GPU; default: what is free")
    parser.add_argument("--guidance", type=float, metavar="G", help="default: the bundle's")
    parser.add_argument("--runs", type=int, default=30, metavar="N", help="of each setting (default: 30)")
    parser.add_argument("--seconds", type=float, default=60, metavar="S", help="of runs that are enough (default: 60)")
    parser.add_argument("--warm-up", type=int, default=2, metavar="N", help="runs before those (default: 2)")
    parser.add_argument("--cold", type=int, default=3, metavar="N", help="fresh processes; 0 for none (default: 3)")
    parser.add_argument("--apart", action="store_true", help="one bundle after the other: memory holds not all")
    parser.add_argument("--device", metavar="NAME", default="auto")
    add_threads(parser)
    return parser


def bench_latency(arguments: argparse.Namespace) -> Report:
    """Seconds of every stage of every setting, of cold starts, and of first runs.

    Raises:
        UserError: a bundle cannot be opened, a setting is none, or no setting can be run.
    """
    from unipic2_edge.runtime.bundle import Bundle
    from unipic2_edge.runtime.progress import progress

    from ..identity import bundle_labels
    from ..results import Report
    from .measure import measure
    from .record import latency_lines, load_record, point_record

    settings = _settings(arguments)
    folders = bundle_labels(arguments.bundle)
    sweep = read_sweep(arguments)
    points = sweep.points({label: Bundle(folder).manifest for label, folder in folders.items()})
    runs = len(points) * (settings.warm_up + settings.runs) + len(folders) * 4 * arguments.cold
    with progress(runs, "run", arguments) as advance:
        cold = _cold(arguments, folders, settings, sweep, advance)
        loads, timed = measure(folders, points, settings, advance)
    records = [point_record(one) for one in timed]
    results: dict[str, object] = {
        "points": records,
        "loads": [load_record(load) for load in loads],
        "bundles": {load.bundle: load.identity for load in loads},
        "cold": cold,
        "pictures": _pictures(arguments.output, timed),
    }
    return Report("latency", _recorded(arguments, settings, list(folders)), results, latency_lines(records))


def read_sweep(arguments: argparse.Namespace) -> Sweep:
    """The lists of the command line.

    Raises:
        RequestError: steps that are no number.
    """
    from .point import Sweep

    return Sweep(
        tasks=listed(arguments.tasks),
        sizes=listed(arguments.sizes),
        steps=numbers(arguments.steps, "--steps"),
        memory=listed(arguments.memory_plans),
        guidance=arguments.guidance,
    )


def _settings(arguments: argparse.Namespace) -> Settings:
    from .measure import Settings

    if min(arguments.runs, arguments.warm_up) < 1 or arguments.seconds <= 0 or arguments.cold < 0:
        raise RequestError("no runs measure nothing", "use 1 or more --runs and --warm-up, and --seconds above 0")
    return Settings(
        device=arguments.device,
        threads=cpu_threads(arguments.threads),
        warm_up=arguments.warm_up,
        runs=arguments.runs,
        seconds=arguments.seconds,
        apart=arguments.apart,
    )


def _cold(
    arguments: argparse.Namespace, folders: Mapping[str, Path], settings: Settings, sweep: Sweep, advance: Any
) -> dict[str, object]:
    """Fresh processes of each bundle, for the sweep's first setting; other starts than the measurement's own."""
    from ..startup import measure_startup

    options = ["--device", settings.device, "--threads", str(settings.threads)]
    for option, values in (("--size", sweep.sizes), ("--memory", sweep.memory)):
        options += [option, values[0]] if values else []
    steps = sweep.steps[0] if sweep.steps else None
    return {
        label: {
            name: found.to_dict()
            for name, found in measure_startup(folder, arguments.cold, steps, advance, options).items()
        }
        for label, folder in folders.items()
        if arguments.cold
    }


def _pictures(output: Path | None, timed: Sequence[Timed]) -> list[dict[str, str]]:
    """The last picture of each point, written beside the report."""
    from unipic2_edge.runtime.files import write_bytes

    if output is None:
        return []
    folder, found = Path(f"{output.stem}-pictures"), []
    for number, one in enumerate(timed):
        last = one.runs[-1] if one.runs else None
        if last is not None and last.made is not None:
            buffer = io.BytesIO()
            last.made.save(buffer, format="PNG")
            (output.parent / folder).mkdir(exist_ok=True)
            write_bytes(output.parent / folder / f"{number}.png", buffer.getvalue())
            found.append({"file": f"{folder}/{number}.png", "text": f"{one.point.name}: {last.asked}"})
    return found


def _recorded(arguments: argparse.Namespace, settings: Settings, labels: list[str]) -> dict[str, object]:
    return {
        "bundles": labels,
        "device": settings.device,
        "threads": settings.threads,
        "warm_up": settings.warm_up,
        "runs": settings.runs,
        "seconds": settings.seconds,
        "cold": arguments.cold,
        "interleaved": not settings.apart,
        "prompts": "every run another one",
    }
