"""bench's commands: `demo`, and `bench KIND`."""

from __future__ import annotations

import argparse
from pathlib import Path

from unipic2_edge.runtime.cli import Outcome, add_common_arguments
from unipic2_edge.runtime.errors import OutputError

from .acceptance.commands import accept_outcome, add_accept
from .compare_command import add_compare
from .curves.commands import add_curves, curves_outcome
from .judged.commands import add_judged
from .latency.commands import add_latency
from .options import add_threads
from .reporting.commands import add_report, report_outcome
from .results import Report, write_report
from .roofline.commands import add_roofline
from .throughput.commands import add_throughput


def demo_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `demo`."""
    parser.add_argument("--workdir", metavar="DIR", type=Path, default=Path("demo-out"))


def demo(arguments: argparse.Namespace) -> Outcome:
    """Make the demo's pictures and report.

    Raises:
        UserError: see `run_demo`.
    """
    from unipic2_edge.runtime.progress import progress

    from .demo import STEPS, run_demo

    with progress(len(STEPS), "step", arguments) as advance:
        return run_demo(arguments.workdir, done=advance)


def bench_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `bench` and of its kinds."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    quality = kinds.add_parser("quality", help="scores on the shapes world, on unseen prompts; GenEval's, a judge's")
    add_judged(quality)
    quality.add_argument("--prompts", type=int, default=600, help="of each task (default: 600)")
    compare = add_compare(kinds)
    words = kinds.add_parser("words", help="a first and a second look at a picture, and answers, against PyTorch")
    words.add_argument("--checkpoint", metavar="DIR", type=Path, required=True)
    words.add_argument("--prompts", type=int, default=12, help="pictures that are looked at (default: 12)")
    add_threads(words, " of both")
    startup = kinds.add_parser("startup", help="fresh processes: --help, import, first picture")
    startup.add_argument("--runs", type=int, default=7)
    engines = kinds.add_parser("engines", help="every graph compiled for every target, or why not")
    engines.add_argument("bundle", metavar="BUNDLE", type=Path, nargs="+")
    engines.add_argument("--targets", metavar="NAME,NAME", default="rtx-20,rtx-30,rtx-40,rtx-50")
    memory = kinds.add_parser("memory", help="what cards of some sizes hold at once, computed")
    memory.add_argument("bundle", metavar="BUNDLE", type=Path, nargs="+")
    memory.add_argument("--target", metavar="NAME", default="rtx-40")
    memory.add_argument("--budgets", metavar="GB,GB", default="24,16,12,8,6")
    memory.add_argument("--assume", metavar="GRAPH=AMOUNT", action="append", default=[], help="its weights, instead")
    recipes = kinds.add_parser("recipes", help="what each export recipe loses and saves")
    recipes.add_argument("checkpoint", metavar="CHECKPOINT", type=Path)
    recipes.add_argument("--recipes", metavar="NAME,NAME", default="int8,fp8,int4")
    recipes.add_argument("--prompts", type=int, default=600, help="of each task (default: 600)")
    recipes.add_argument("--precision", metavar="NAME", default="fp32", help="around what is quantised")
    add_threads(recipes)
    recipes.add_argument("--workdir", metavar="DIR", type=Path, default=Path("recipe-bundles"))
    serve = kinds.add_parser("serve", help="a server under load, against the bare pipeline")
    serve.add_argument("--requests", type=int, default=1000, help="at once, and one after another (default: 1000)")
    serve.add_argument("--pictures", type=int, default=24, help="for each measurement of speed (default: 24)")
    serve.add_argument("--rounds", type=int, default=5)
    serve.add_argument("--batch", type=int, default=4)
    serve.add_argument("--slow", type=int, default=200, metavar="N", help="clients that dawdle (default: 200)")
    add_threads(serve)
    timed = (add_latency(kinds), add_throughput(kinds), *add_roofline(kinds))
    for kind in (quality, compare, words, startup, serve, engines, memory, recipes, *timed):
        kind.add_argument("-o", "--output", metavar="REPORT.json", type=Path, help="write the report here as well")
        add_common_arguments(kind)
    add_report(kinds)
    add_accept(kinds)
    add_curves(kinds)
    for kind in (quality, words, startup, serve):
        kind.add_argument("bundle", metavar="BUNDLE", type=Path)
    for kind in (quality, compare, words, startup, serve):
        kind.add_argument("--steps", type=int, metavar="N", help="default: the bundle's")
    for kind in (quality, compare, words):
        kind.add_argument("--guidance", type=float, metavar="G", help="default: the bundle's")
        kind.add_argument("--seed", type=int, default=0)


def bench(arguments: argparse.Namespace) -> Outcome:
    """Run one benchmark and report it with its machine and settings.

    Raises:
        UserError: see the benchmark.
    """
    if arguments.kind == "report":
        return report_outcome(arguments)
    if arguments.kind == "accept":
        return accept_outcome(arguments)
    if arguments.kind == "curves":
        return curves_outcome(arguments)
    from . import benchmarks

    if arguments.output is not None and not arguments.output.parent.is_dir():  # said now, not after the measurement
        raise OutputError(f"{arguments.output.parent} is no folder", "make it first")
    report: Report = getattr(benchmarks, f"bench_{arguments.kind}")(arguments)
    if arguments.output is not None:
        write_report(arguments.output, report)
    return Outcome(report.to_dict(), report.lines)
