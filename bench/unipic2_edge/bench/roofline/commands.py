"""`bench roofline` and `bench predict`: their arguments, and from arguments to reports.

unipic2-edge bench roofline BUNDLE --task edit -o roofline.json
unipic2-edge bench predict BUNDLE --targets rtx-40,jetson-thor --calibrate roofline.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipic2_edge.runtime.errors import RequestError

from ..options import add_threads, cpu_threads

if TYPE_CHECKING:
    from unipic2_edge.runtime.bundle import Bundle

    from ..results import Report
    from .prediction import Efficiency
    from .roofline import Roofline
    from .workload import Workload

Kinds = Any  # argparse's subparsers have no public type


def add_roofline(kinds: Kinds) -> list[argparse.ArgumentParser]:
    """The two commands; returned for what all kinds of `bench` have in common."""
    roofline = kinds.add_parser("roofline", help="every graph's operations and bytes, and its share of the limits")
    roofline.add_argument("--device", metavar="NAME", default="auto")
    predict = kinds.add_parser("predict", help="latency on devices that are not here, by the roofline model")
    predict.add_argument("--targets", metavar="NAME,NAME", default="rtx-30,rtx-40,rtx-50,jetson-orin,jetson-thor")
    chosen = predict.add_mutually_exclusive_group()
    chosen.add_argument("--calibrate", metavar="REPORT.json", type=Path, help="a roofline report (default: measure)")
    chosen.add_argument("--efficiency", metavar="SHARE", type=float, help="of the limits, instead of a calibration")
    for kind in (roofline, predict):
        kind.add_argument("bundle", metavar="BUNDLE", type=Path)
        kind.add_argument("--task", choices=("generate", "edit"), default="generate")
        kind.add_argument("--size", metavar="WxH", help="default: the bundle's")
        kind.add_argument("--steps", type=int, metavar="N", help="default: the bundle's")
        kind.add_argument("--guidance", type=float, metavar="G", help="default: the bundle's")
        kind.add_argument("--pictures", type=int, metavar="N", default=1, help="in one batch (default: 1)")
        kind.add_argument("--runs", type=int, metavar="N", default=5, help="timed runs (default: 5)")
        add_threads(kind)
    return [roofline, predict]


def bench_roofline(arguments: argparse.Namespace) -> Report:
    """One run's stages against the device's limits.

    Raises:
        UserError: the bundle or the device cannot do the task, or the GPU's limits are unknown.
    """
    from ..results import Report
    from .roofline import roofline_lines, roofline_record

    bundle, workload = _opened(arguments)
    found = _measured(arguments, workload, arguments.device)
    settings = _settings(bundle, workload) | _timing(arguments)
    return Report("roofline", settings, roofline_record(found), roofline_lines(found))


def bench_predict(arguments: argparse.Namespace) -> Report:
    """The predicted latency of every card of some targets, with the calculation.

    Raises:
        UserError: the bundle cannot do the task, or there is no such target or no such report.
    """
    from unipic2_edge.engines.targets import targets_of

    from ..results import Report
    from .calls import WorkTable, asked_calls
    from .prediction import LAUNCHES, predict, prediction_lines, prediction_record
    from .stages import stages_of

    bundle, workload = _opened(arguments)
    targets = targets_of(arguments.targets)
    efficiency = _efficiency(arguments, workload)
    works = WorkTable(bundle)
    stages = stages_of([asked_calls(bundle, workload, works)], works)
    manifest = bundle.manifest
    precisions = {name: manifest.components[graph.component].precision for name, graph in manifest.graphs.items()}
    made = [predict(target, card, stages, precisions, efficiency) for target in targets for card in target.cards]
    lines = [f"PREDICTED, not measured; efficiency from {efficiency.source}: {100 * efficiency.overall:.1f} % overall"]
    lines += [line for found in made for line in prediction_lines(found)]
    graphs = sorted({stage.graph for stage in stages})
    lines.append(f"{LAUNCHES} Of {', '.join(graphs)}.")
    results: dict[str, object] = {
        "efficiency": {"overall": efficiency.overall, "graphs": efficiency.graphs, "source": efficiency.source},
        "predictions": [prediction_record(found) for found in made],
        "graphs": graphs,
        "left out": LAUNCHES,
    }
    measured = arguments.calibrate is None and arguments.efficiency is None
    settings = _settings(bundle, workload) | (_timing(arguments) if measured else {})
    return Report("predict", settings, results, lines)


def _opened(arguments: argparse.Namespace) -> tuple[Bundle, Workload]:
    from unipic2_edge.runtime.bundle import Bundle

    from .workload import make_workload

    if arguments.runs < 1:
        raise RequestError(f"{arguments.runs} runs measure nothing", "use 1 or more")
    bundle = Bundle(arguments.bundle)
    workload = make_workload(
        bundle.manifest, arguments.task, arguments.size, arguments.steps, arguments.guidance, arguments.pictures
    )
    return bundle, workload


def _measured(arguments: argparse.Namespace, workload: Workload, device: str) -> Roofline:
    import numpy as np

    from unipic2_edge.runtime.device import processor
    from unipic2_edge.runtime.pipeline import Pipeline
    from unipic2_edge.runtime.progress import progress

    from .calls import WorkTable, recorded_runs
    from .ceilings import measure_limits
    from .limits import card_limits, find_card
    from .roofline import Roofline
    from .stages import stages_of

    threads = cpu_threads(arguments.threads)
    pipeline = Pipeline.load(arguments.bundle, device, threads)
    with progress(arguments.runs + 2, "run", arguments) as advance:
        runs = recorded_runs(pipeline, workload, arguments.runs, advance)
        found = processor() if pipeline.placement is None else pipeline.placement.device
        pipeline.close()  # its memory, for the limits
        limits = measure_limits(found, threads)
        advance("limits")
    card = find_card(found.name, found.memory_bytes)
    stages = stages_of([calls for calls, _ in runs], WorkTable(pipeline.bundle))
    seconds = float(np.median([seconds for _, seconds in runs]))
    return Roofline(stages, seconds, limits, None if card is None else card_limits(card))


def _efficiency(arguments: argparse.Namespace, workload: Workload) -> Efficiency:
    """As given, as calibrated by a report, or as measured here and now."""
    from .prediction import Efficiency, calibrate
    from .roofline import roofline_record

    if arguments.efficiency is not None:
        if not 0 < arguments.efficiency <= 1:
            raise RequestError(f"an efficiency of {arguments.efficiency} is impossible", "give a share like 0.5")
        return Efficiency(arguments.efficiency, "the request (--efficiency)")
    if arguments.calibrate is not None:
        return _read_efficiency(arguments.calibrate)
    found = _measured(arguments, workload, "auto")
    stages: Any = roofline_record(found)["stages"]
    return calibrate(stages, f"this machine's run ({found.limits.device})")


def _read_efficiency(path: Path) -> Efficiency:
    from .prediction import calibrate

    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        settings, results = report["settings"], report["results"]
        limits = results["limits"]["measured"] or results["limits"]["advertised"]
        source = f"{path.name}: {settings['bundle']}, {settings['task']} at {settings['size']} on {limits['device']}"
        return calibrate(results["stages"], source)
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}", "give a report of `bench roofline`") from None
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        raise RequestError(f"{path} is no roofline report", "make one with `bench roofline BUNDLE -o`") from None


def _settings(bundle: Bundle, workload: Workload) -> dict[str, object]:
    manifest = bundle.manifest
    return {
        "bundle": manifest.name,
        "recipe": manifest.recipe,
        "task": workload.task,
        "size": f"{workload.width}x{workload.height}",
        "steps": workload.steps,
        "guidance": workload.guidance,
        "pictures": workload.pictures,
    }


def _timing(arguments: argparse.Namespace) -> dict[str, object]:
    """Settings of what is measured."""
    return {"runs": arguments.runs, "threads": cpu_threads(arguments.threads)}
