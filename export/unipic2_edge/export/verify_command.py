"""The command `verify`: drift, sensitivity and coverage of a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from unipic2_edge.runtime.cli import Outcome

from .lora_argument import add_lora_argument, with_loras

if TYPE_CHECKING:
    from unipic2_edge.runtime.bundle import Bundle
    from unipic2_edge.training.checkpoint import Checkpoint

    from .verify import Drift


def verify_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `verify`."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument(
        "--checkpoint",
        metavar="DIR",
        type=Path,
        help="the checkpoint it was exported from; without it every file's hash is checked, and the drift as it was "
        "last measured is shown",
    )
    add_lora_argument(parser)
    parser.add_argument(
        "--sensitivity",
        action="store_true",
        help="rank the denoiser's layers by what quantising each alone costs (with --checkpoint)",
    )
    parser.add_argument(
        "--coverage",
        metavar="WxH",
        help="list which matrix products run quantised in an edit of this size, and their share of the arithmetic",
    )


def verify(arguments: argparse.Namespace) -> Outcome:
    """Compare a bundle with its checkpoint, record the drift in `quality.json`, and fail when it is too large.

    Raises:
        BundleError: a file of the bundle is missing or damaged.
        RequestError: the checkpoint is not the one the bundle was made from, or none is given and the drift was
            never measured.
        WorkError: a component's numbers differ by more than the tolerance.
    """
    if arguments.sensitivity:
        return _sensitivity(arguments)
    if arguments.coverage is not None:
        return _coverage(arguments)
    from unipic2_edge.runtime.bundle import Bundle
    from unipic2_edge.training.metaquery.checkpoint import open_checkpoint

    from .quality import read_quality

    bundle = Bundle(arguments.bundle)
    for file in bundle.manifest.files:
        bundle.path(file)
    if arguments.checkpoint is None:
        drifts = read_quality(bundle)
        _check(drifts)
    else:
        checkpoint = with_loras(open_checkpoint(arguments.checkpoint, partial=True), arguments)
        _check_source(bundle, checkpoint)
        drifts = measure(bundle, checkpoint, arguments)
    result: dict[str, object] = {
        "measured": arguments.checkpoint is not None,
        "drifts": [drift.to_dict() for drift in drifts],
        "worst": worst(drifts),
    }
    return Outcome(result, drift_lines(drifts))


def _sensitivity(arguments: argparse.Namespace) -> Outcome:
    """Rank a bundle's quantised layers.

    Raises:
        RequestError: no checkpoint is given, or nothing of the denoiser is quantised.
        WorkError: calibration met NaN or infinity.
    """
    from unipic2_edge.runtime.bundle import Bundle
    from unipic2_edge.runtime.errors import RequestError
    from unipic2_edge.runtime.progress import progress
    from unipic2_edge.training.metaquery.checkpoint import open_checkpoint

    from .ranking import rank_layers, ranking_lines

    if arguments.checkpoint is None:
        raise RequestError("the sensitivity of layers needs the checkpoint", "give it with --checkpoint DIR")
    bundle, checkpoint = Bundle(arguments.bundle), with_loras(open_checkpoint(arguments.checkpoint), arguments)
    _check_source(bundle, checkpoint)
    with progress(None, "layer", arguments) as advance:
        ranked = rank_layers(bundle, checkpoint, advance)
    return Outcome({"layers": ranked}, ranking_lines(ranked))


def _coverage(arguments: argparse.Namespace) -> Outcome:
    """The matrix products of a bundle's graphs, but for the autoencoder's, which are convolutions.

    Raises:
        BundleError: not a bundle, or a graph is damaged.
        RequestError: a size that is none.
    """
    from unipic2_edge.runtime.bundle import Bundle
    from unipic2_edge.runtime.pictures import parse_size

    from .coverage import coverage_lines, coverage_record, products

    bundle, size = Bundle(arguments.bundle), parse_size(arguments.coverage)
    graphs = [name for name, graph in bundle.manifest.graphs.items() if graph.component != "vae"]
    found = {name: products(bundle, name, size) for name in graphs}
    lines = [line for name in graphs for line in coverage_lines(name, found[name])]
    return Outcome({"size": size, "graphs": {name: coverage_record(found[name]) for name in graphs}}, lines)


def _check_source(bundle: Bundle, checkpoint: Checkpoint) -> None:
    from unipic2_edge.runtime.errors import RequestError

    if checkpoint.sha256() != bundle.manifest.source.sha256:
        raise RequestError(
            f"{bundle.folder} was not made from {checkpoint.folder} (the hashes differ)",
            "give the checkpoint it was exported from, with the same --lora, or export this one again",
        )


def measure(bundle: Bundle, checkpoint: Checkpoint, arguments: argparse.Namespace) -> list[Drift]:
    """Compare, record and check; what failed is recorded too."""
    from unipic2_edge.runtime.progress import progress

    from .quality import write_quality
    from .verify import verify as compare

    with progress(len(bundle.manifest.components), "component", arguments) as advance:
        drifts = compare(bundle, checkpoint, advance)
    write_quality(bundle, drifts)
    _check(drifts)
    return drifts


def _check(drifts: list[Drift]) -> None:
    from unipic2_edge.runtime.errors import WorkError

    failed = [drift for drift in drifts if not drift.passed]
    if failed:
        worst = max(failed, key=lambda drift: drift.relative)
        raise WorkError(
            f"{len(failed)} of {len(drifts)} comparisons differ too much; worst: {worst.component} {worst.output} "
            f"({worst.case}), relative error {worst.relative:.1e} over {worst.tolerance:.0e}",
            "do not use this bundle; export again, and report it if that does not help",
        )


def drift_lines(drifts: list[Drift]) -> list[str]:
    """The comparisons for people."""
    return [f"{'component':<15} {'output':<9} {'case':<24} {'relative':>9} {'largest':>9}"] + [
        f"{drift.component:<15} {drift.output:<9} {drift.case:<24} {drift.relative:9.1e} {drift.largest:9.1e}"
        for drift in drifts
    ]


def worst(drifts: list[Drift]) -> dict[str, float]:
    """Each component's largest relative error."""
    components = dict.fromkeys(drift.component for drift in drifts)
    return {name: max(drift.relative for drift in drifts if drift.component == name) for name in components}
