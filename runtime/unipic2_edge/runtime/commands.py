"""The runtime's commands: `generate`, `edit`, `inspect`, `doctor`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .cli import Outcome


def generate_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `generate`."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("prompt", metavar="PROMPT")
    _picture_arguments(parser)


def generate(arguments: argparse.Namespace) -> Outcome:
    """Make pictures from a prompt and write them as PNGs that carry their settings.

    Raises:
        UserError: see `Pipeline.generate` and `save_picture`.
    """
    from .pictures import generate_pictures

    return generate_pictures(arguments)


def edit_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `edit`."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("image", metavar="IMAGE", type=Path, help="PNG, JPEG or WebP")
    parser.add_argument("instruction", metavar="INSTRUCTION")
    _picture_arguments(parser)
    parser.add_argument(
        "--reference",
        choices=("mode", "sample"),
        default="mode",
        help="how the picture is encoded (default: mode)",
    )
    parser.add_argument(
        "--longer-edge",
        type=int,
        metavar="N",
        help="in pixels, instead of --size: the other edge follows the picture's shape",
    )


def edit(arguments: argparse.Namespace) -> Outcome:
    """Change a picture as told.

    Raises:
        UserError: see `Pipeline.edit` and `save_picture`.
    """
    from .pictures import edit_pictures

    return edit_pictures(arguments)


def _picture_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="OUT.png", type=Path, required=True)
    parser.add_argument("--size", metavar="WxH", help="in pixels (default: the bundle's)")
    parser.add_argument("--steps", type=int, metavar="N")
    parser.add_argument("--guidance", type=float, metavar="G", help="1 or less: none")
    parser.add_argument("--negative", metavar="TEXT", help="what to lead away from")
    parser.add_argument("--seed", type=int, metavar="S", help="default: a random one, which is reported")
    parser.add_argument("-n", "--count", type=int, default=1, metavar="COUNT", help="OUT-1.png, OUT-2.png, …")
    parser.add_argument("--device", default="auto", metavar="D", help="auto (default), cpu, gpu, gpu:1, cuda")
    parser.add_argument("--memory", metavar="8GB", help="of the GPU, that may be used (default: what is free)")
    parser.add_argument("--fallback", action="store_true", help="use the processor when no engine fits the GPU")
    parser.add_argument("--threads", type=int, metavar="K", help="CPU threads (default: one per core)")
    parser.add_argument("--force", action="store_true", help="replace a picture that is there already")


def inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `inspect`."""
    parser.add_argument("path", metavar="BUNDLE|PICTURE.png", type=Path)
    parser.add_argument("--hashes", action="store_true", help="also check every file of the bundle")


def inspect(arguments: argparse.Namespace) -> Outcome:
    """Describe a bundle, or the settings of a picture.

    Raises:
        BundleError, ImageError: neither a bundle nor a picture of ours.
    """
    from .inspection import inspect_bundle, inspect_picture

    if arguments.path.is_file():
        return inspect_picture(arguments.path)
    return inspect_bundle(arguments.path, arguments.hashes)


def doctor_arguments(parser: argparse.ArgumentParser) -> None:
    """`doctor` takes no arguments of its own."""


def doctor(arguments: argparse.Namespace) -> Outcome:
    """Describe this machine: Python, memory, the backends that load, the GPU if there is one."""
    from .inspection import examine_machine

    return examine_machine()
