"""export's commands: `export` and `verify`."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from unipic2_edge.runtime.cli import Outcome


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `export`."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="a folder in the published layout")
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="the folder to write; must not exist yet")
    parser.add_argument("--recipe", metavar="NAME", default="fp32", help="fp32 (default), fp16 or bf16")
    parser.add_argument(
        "--components",
        metavar="A,B",
        help="only these of denoiser, vae, text_encoder, text_encoder_2, text_encoder_3",
    )


def export(arguments: argparse.Namespace) -> Outcome:
    """Convert a checkpoint to a bundle.

    Raises:
        CheckpointError, RecipeError, OutputError, WorkError: see `write_bundle`.
    """
    from unipic2_edge.runtime.progress import progress
    from unipic2_edge.training.checkpoint import Checkpoint

    from .bundle_writer import COMPONENTS, write_bundle
    from .recipes import find_recipe

    recipe = find_recipe(arguments.recipe)
    components = tuple(arguments.components.split(",")) if arguments.components else COMPONENTS
    checkpoint = Checkpoint.open(arguments.checkpoint, partial=True)
    with progress(len(components), "component", arguments) as advance:
        manifest = write_bundle(checkpoint, arguments.bundle, recipe, components, advance)
    size = sum(entry.bytes for entry in manifest.files.values())
    result: dict[str, object] = {
        "bundle": str(arguments.bundle),
        "recipe": recipe.to_dict(),
        "components": {name: msgspec.to_builtins(component) for name, component in manifest.components.items()},
        "bytes": size,
    }
    lines = [f"{arguments.bundle}: {len(manifest.graphs)} graphs, {size / 1e6:.1f} MB, {recipe.name}"]
    return Outcome(result, lines)


def verify_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `verify`."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument(
        "--checkpoint", metavar="DIR", type=Path, required=True, help="the checkpoint it was exported from"
    )


def verify(arguments: argparse.Namespace) -> Outcome:
    """Compare a bundle with its checkpoint, record the drift in `quality.json`, and fail when it is too large.

    Raises:
        RequestError: the checkpoint is not the one the bundle was made from.
        WorkError: a component's numbers differ by more than the tolerance.
    """
    from unipic2_edge.runtime.bundle import Bundle
    from unipic2_edge.runtime.errors import RequestError, WorkError
    from unipic2_edge.runtime.progress import progress
    from unipic2_edge.training.checkpoint import Checkpoint

    from .quality import write_quality
    from .verify import verify as compare

    bundle = Bundle(arguments.bundle)
    checkpoint = Checkpoint.open(arguments.checkpoint, partial=True)
    if checkpoint.sha256() != bundle.manifest.source.sha256:
        raise RequestError(
            f"{arguments.bundle} was not made from {arguments.checkpoint} (the hashes differ)",
            "give the checkpoint it was exported from, or export this one again",
        )
    with progress(len(bundle.manifest.components), "component", arguments) as advance:
        drifts = compare(bundle, checkpoint, advance)
    write_quality(bundle, drifts)
    lines = [f"{'component':<15} {'output':<9} {'case':<24} {'relative':>9} {'largest':>9}"]
    lines += [
        f"{d.component:<15} {d.output:<9} {d.case:<24} {d.relative:9.1e} {d.largest:9.1e}{'' if d.passed else '  TOO LARGE'}"
        for d in drifts
    ]
    failed = [drift for drift in drifts if not drift.passed]
    if failed:
        worst = max(failed, key=lambda drift: drift.relative)
        raise WorkError(
            f"{len(failed)} of {len(drifts)} comparisons differ too much; worst: {worst.component} {worst.output} "
            f"({worst.case}), relative error {worst.relative:.1e} over {worst.tolerance:.0e}",
            "do not use this bundle; export again, and report it if that does not help",
        )
    worst_by_component = {
        name: max(d.relative for d in drifts if d.component == name) for name in bundle.manifest.components
    }
    return Outcome({"drifts": [drift.to_dict() for drift in drifts], "worst": worst_by_component}, lines)
