"""engines' commands: `build` and `targets`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from unipic2_edge.runtime.cli import Outcome

if TYPE_CHECKING:
    from unipic2_edge.runtime.bundle import Bundle

    from .engine_set import Options


def build_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `build`."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument(
        "--target", metavar="NAME[,NAME]", required=True, help="see `unipic2-edge targets`; auto: this machine"
    )
    sizes = parser.add_argument_group("pictures (default: 256 to 1024 pixels a side, generate and edit, 1-2 at once)")
    sizes.add_argument("--sizes", metavar="WxH[,WxH]", help="these sizes and what lies between them")
    sizes.add_argument("--min", metavar="WxH", help="the smallest size")
    sizes.add_argument("--max", metavar="WxH", help="the largest size: memory grows with it")
    sizes.add_argument("--tasks", metavar="A[,B]", help="generate, edit (default: both)")
    sizes.add_argument("--images", type=int, metavar="N", help="pictures at once, at most")
    parser.add_argument(
        "--backend",
        choices=("tensorrt_rtx", "tensorrt", "onnxruntime", "openvino"),
        help="default: the target's first; for cpu the faster of those that are installed",
    )
    parser.add_argument("--platform", metavar="P", help="linux-x86_64, windows-x86_64, … (default: this machine's)")
    parser.add_argument("--weight-streaming", action="store_true", help="plans may run with weights in host memory")
    parser.add_argument("--threads", type=int, metavar="K", help="CPU threads of the cpu target")
    parser.add_argument(
        "--inference-precision",
        choices=("f32", "bf16"),
        default="f32",
        help="what openvino multiplies in; bf16 needs AMX or AVX512-BF16",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be built and what it takes; build nothing"
    )


def build(arguments: argparse.Namespace) -> Outcome:
    """Compile a bundle for its targets.

    Raises:
        RequestError: an unknown target, one that cannot run the bundle's precision, sizes the model cannot make.
        BundleError, MissingDependencyError, OutputError, WorkError: see `engine_set` and `build.build`.
    """
    from unipic2_edge.runtime.bundle import Bundle

    from .engine_set import engine_set
    from .targets import targets_of

    bundle = Bundle(arguments.bundle)
    jobs = engine_set(bundle, targets_of(arguments.target), _options(bundle, arguments))
    if arguments.dry_run:
        from .build_page import dry_run_page

        return dry_run_page(bundle, jobs)
    from .build_page import built_page, watched_build

    return built_page(bundle, watched_build(bundle, jobs, arguments))


def _options(bundle: Bundle, arguments: argparse.Namespace) -> Options:
    """The flags as options.

    Raises:
        RequestError: a value that cannot be.
    """
    from unipic2_edge.runtime.errors import RequestError
    from unipic2_edge.runtime.platforms import PLATFORMS

    from .engine_set import Options
    from .sizes import fixed_sizes, limited, parse_size, span_sizes

    if arguments.threads is not None and arguments.threads < 1:
        raise RequestError(f"{arguments.threads} threads cannot work", "use 1 or more")
    if arguments.platform not in (None, *PLATFORMS):
        raise RequestError(f"there is no platform {arguments.platform!r}", f"use one of {', '.join(PLATFORMS)}")
    if arguments.sizes and (arguments.min or arguments.max):
        raise RequestError("--sizes stands for --min and --max", "give one or the other")
    if arguments.sizes:
        sizes = fixed_sizes(bundle.manifest, [parse_size(text) for text in arguments.sizes.split(",")])
    else:
        first, last = (parse_size(text) if text else None for text in (arguments.min, arguments.max))
        sizes = span_sizes(bundle.manifest, first, last)
    tasks = tuple(arguments.tasks.split(",")) if arguments.tasks else None
    return Options(
        sizes=limited(sizes, tasks, arguments.images),
        threads=arguments.threads,
        platform=arguments.platform,
        backend=arguments.backend,
        weight_streaming=arguments.weight_streaming,
        inference_precision=arguments.inference_precision,
    )


def targets_arguments(parser: argparse.ArgumentParser) -> None:
    """`targets` takes no arguments of its own."""


def targets(arguments: argparse.Namespace) -> Outcome:
    """List the targets a bundle can be built for."""
    from .targets import TARGETS
    from .targets_page import targets_table

    listed = list(TARGETS.values())
    return Outcome({"targets": [target.to_dict() for target in listed]}, targets_table(listed))
