"""The runtime's commands: `generate`, `edit`, `describe`, `batch`, `inspect`, `doctor`."""

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


def describe_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `describe`."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("image", metavar="IMAGE", help="PNG, JPEG or WebP; - for a question without a picture")
    parser.add_argument("question", metavar="QUESTION", nargs="?", default="", help="default: describe the picture")
    parser.add_argument("--max-tokens", type=int, default=256, metavar="N", help="of the answer (default: 256)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 (default): the likeliest words")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="draw among the likeliest tokens")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of what is drawn (default: 0)")
    _device_arguments(parser)


def describe(arguments: argparse.Namespace) -> Outcome:
    """Answer in words, which are printed as they come.

    Raises:
        UserError: see `Pipeline.describe`.
    """
    from .pictures import describe_picture

    return describe_picture(arguments)


def batch_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `batch`."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument(
        "file",
        metavar="PROMPTS.jsonl",
        type=Path,
        help='a JSON object a line: {"prompt": "…"}; also image (an edit), seed, width, height, num_inference_steps, '
        "guidance_scale, negative_prompt",
    )
    parser.add_argument("output", metavar="DIR", type=Path, help="line 7's picture is DIR/000007.png")
    parser.add_argument("--replicas", type=int, default=1, metavar="N", help="pipelines side by side (needs [ray])")
    parser.add_argument("--gpus", type=float, default=0, metavar="G", help="of each replica; fractions share one")
    parser.add_argument("--cpus", type=float, default=1, metavar="C", help="of each replica")
    parser.add_argument("--device", default="auto", metavar="D", help="auto (default), cpu, gpu, cuda")
    parser.add_argument("--threads", type=int, metavar="K", help="CPU threads of each (default: one per core)")


def batch(arguments: argparse.Namespace) -> Outcome:
    """Make a file of prompts into pictures; what is there already is not made again.

    Raises:
        RequestError: the file is wrong, or cannot be read.
        OutputError: the folder cannot be made.
        WorkError: some lines could not be made; the others stand.
    """
    from .errors import OutputError, RequestError, WorkError
    from .offline import Replicas, make, read_tasks

    if arguments.replicas < 1:
        raise RequestError(f"{arguments.replicas} replicas make nothing", "use 1 or more")
    try:
        arguments.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {arguments.output}: {error.strerror}", "give another folder") from error
    tasks = read_tasks(arguments.file, arguments.output)
    replicas = Replicas(arguments.replicas, arguments.gpus, arguments.cpus, arguments.device, arguments.threads)
    failed = make(arguments.bundle, tasks, replicas) if tasks else {}
    if failed:
        number, problem = min(failed.items())
        raise WorkError(
            f"{len(failed)} of {len(tasks)} lines could not be made; line {number}: {problem}",
            "mend them and run again: what is there is not made again",
        )
    made = {"pictures": len(tasks), "output": str(arguments.output)}
    return Outcome(dict(made), [f"{len(tasks)} pictures in {arguments.output}"])


def _picture_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="OUT.png", type=Path, required=True)
    parser.add_argument("--size", metavar="WxH", help="in pixels (default: the bundle's)")
    parser.add_argument("--steps", type=int, metavar="N")
    parser.add_argument("--guidance", type=float, metavar="G", help="1 or less: none")
    parser.add_argument("--negative", metavar="TEXT", help="what to lead away from")
    parser.add_argument("--seed", type=int, metavar="S", help="default: a random one, which is reported")
    parser.add_argument("-n", "--count", type=int, default=1, metavar="COUNT", help="OUT-1.png, OUT-2.png, …")
    parser.add_argument("--force", action="store_true", help="replace a picture that is there already")
    _device_arguments(parser)


def _device_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", metavar="D", help="auto (default), cpu, gpu, gpu:1, cuda")
    parser.add_argument("--memory", metavar="8GB", help="of the GPU, that may be used (default: what is free)")
    parser.add_argument("--fallback", action="store_true", help="use the processor when no engine fits the GPU")
    parser.add_argument("--threads", type=int, metavar="K", help="CPU threads (default: one per core)")


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
