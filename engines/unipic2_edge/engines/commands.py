"""engines' commands: `build` and `targets`."""

from __future__ import annotations

import argparse
from pathlib import Path

from unipic2_edge.runtime.cli import Outcome


def build_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `build`."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("--target", metavar="NAME[,NAME]", required=True, help="see `unipic2-edge targets`")
    parser.add_argument("--threads", type=int, metavar="K", help="CPU threads while building (default: one per core)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be built, and build nothing")


def build(arguments: argparse.Namespace) -> Outcome:
    """Compile a bundle for its targets.

    Raises:
        RequestError: an unknown target, or one that cannot run the bundle's precision.
        BundleError, WorkError: see `build_cpu`.
    """
    from unipic2_edge.runtime.bundle import Bundle
    from unipic2_edge.runtime.errors import RequestError
    from unipic2_edge.runtime.progress import progress

    from .cpu import build_cpu
    from .targets import find_target

    targets = [find_target(name.strip()) for name in arguments.target.split(",")]
    if arguments.threads is not None and arguments.threads < 1:
        raise RequestError(f"{arguments.threads} threads cannot work", "use 1 or more")
    bundle = Bundle(arguments.bundle)
    graphs = list(bundle.manifest.graphs)
    if arguments.dry_run:
        lines = [f"{target.name}: {', '.join(graphs)} through {target.backends[0]}" for target in targets]
        return Outcome({"dry_run": True, "targets": {target.name: graphs for target in targets}}, lines)
    result: dict[str, object] = {}
    lines = []
    for target in targets:
        with progress(len(graphs), "graph", arguments) as advance:
            made = build_cpu(bundle, target, arguments.threads, advance)
        record = made.record
        size = sum(graph.bytes for graph in record.graphs.values())
        state = "already built" if made.cached else "built"
        lines.append(
            f"{target.name}: {state}, {len(record.graphs)} engines, {size / 1e6:.2f} MB beside the weights, "
            f"{record.backend} {record.backend_version}"
        )
        result[target.name] = {
            "cached": made.cached,
            "engines": sorted(record.graphs),
            "bytes": size,
            "backend": record.backend,
            "backend_version": record.backend_version,
            "settings": record.settings,
        }
    return Outcome({"bundle": str(arguments.bundle), "targets": result}, lines)


def targets_arguments(parser: argparse.ArgumentParser) -> None:
    """`targets` takes no arguments of its own."""


def targets(arguments: argparse.Namespace) -> Outcome:
    """List the targets a bundle can be built for."""
    from .targets import TARGETS

    lines = [
        f"{target.name:<8} {target.description}; {', '.join(target.backends)}; {', '.join(target.precisions)}"
        for target in TARGETS.values()
    ]
    return Outcome({"targets": [target.to_dict() for target in TARGETS.values()]}, lines)
