"""`unipic2-edge`: the front door. It knows the commands by name and imports one only when it is called.

The table holds strings, so `--help` stays fast and the import arrows stay as they are. The module of a command
holds `<command>_arguments(parser)` and `<command>(arguments)`, which returns an `Outcome` or its like.

Exit codes: 0 done, 1 the work failed, 2 the request was wrong. Progress and logs go to stderr; with `--json`
the last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NoReturn, Protocol

from .errors import MissingDependencyError, RequestError, WorkError

_HELP_WIDTH = 100

#: Command → (module, one line of help), in the order of the way from checkpoint to picture.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": (
        "unipic2_edge.bench.commands",
        "make pictures with the shipped model, from checkpoint to report",
    ),
    "train": ("unipic2_edge.training.commands", "run a training recipe, going on where it stopped"),
    "shards": ("unipic2_edge.training.data.commands", "write the shapes world as shards to train from"),
    "init": ("unipic2_edge.training.commands", "write random weights in the published layout, at any size"),
    "blend": ("unipic2_edge.training.commands", "write a denoiser between two, or one plus what another learned"),
    "pull": ("unipic2_edge.training.commands", "fetch a checkpoint from the hub, or from its local cache"),
    "export": ("unipic2_edge.export.commands", "convert a checkpoint to a bundle (ONNX and weights)"),
    "verify": ("unipic2_edge.export.verify_command", "compare a bundle with its checkpoint, graph by graph"),
    "build": ("unipic2_edge.engines.commands", "compile a bundle for its targets"),
    "targets": ("unipic2_edge.engines.commands", "list what a bundle can be built for"),
    "generate": ("unipic2_edge.runtime.commands", "make pictures from a prompt"),
    "edit": ("unipic2_edge.runtime.commands", "change a picture as told"),
    "describe": ("unipic2_edge.runtime.commands", "say in words what a picture shows, or answer a question about it"),
    "batch": ("unipic2_edge.runtime.commands", "make a file of prompts into pictures, on one machine or a cluster"),
    "serve": ("unipic2_edge.runtime.serve.commands", "serve a bundle to browsers and OpenAI clients on this machine"),
    "inspect": (
        "unipic2_edge.runtime.commands",
        "say what is in a bundle, or with which settings a picture was made",
    ),
    "doctor": ("unipic2_edge.runtime.commands", "say what this machine can do, and what is missing"),
    "bench": ("unipic2_edge.bench.commands", "measure quality, speed and start-up"),
}


@dataclass
class Outcome:
    """What a command reports: `result` for `--json`, `lines` for people."""

    result: dict[str, object]
    lines: list[str] = field(default_factory=list)


class _Reported(Protocol):
    """An outcome by shape: training/ imports nothing of ours and brings its own class."""

    result: dict[str, object]
    lines: list[str]


class _Parser(argparse.ArgumentParser):
    """argparse whose complaints are two lines: what is wrong, and how to mend it."""

    def error(self, message: str) -> NoReturn:
        raise RequestError(message, f"see: {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in words
    try:
        outcome = _run(words)
        text = json.dumps({"ok": True, **outcome.result}, default=str) if as_json else "\n".join(outcome.lines)
        _answer(text)
    except KeyboardInterrupt:
        return _report(
            "stopped by the user", "nothing is half-written; run the command again", "InterruptedWorkError", 1, as_json
        )
    except BrokenPipeError:  # the reader went away: there is nobody to tell
        return 1
    except Exception as error:
        problem, mend = getattr(error, "problem", None), getattr(error, "mend", "")
        if problem is None:
            return _unexpected(error, as_json)
        return _report(problem, mend, type(error).__name__, getattr(error, "exit_code", 1), as_json)
    return 0


def _answer(text: str) -> None:
    """Print and flush: a full disk or a reader that went away is noticed here, not when the interpreter ends.

    Raises:
        BrokenPipeError: nobody reads.
        WorkError: stdout cannot be written; what the command made stands.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise WorkError(f"the report cannot be printed: {error.strerror}", "the work itself is done") from error


def _run(words: list[str]) -> _Reported:
    parser = _top_parser()
    known = [word for word in words if not word.startswith("-")]
    if not words or words[0] in ("-h", "--help", "--version"):
        parser.parse_args(words or ["--help"])
    if not known or words[0] not in COMMANDS:
        raise RequestError(f"there is no command {words[0]!r}", f"use one of {', '.join(COMMANDS)}")
    name, rest = words[0], words[1:]
    module = _import(name)
    command: Callable[[argparse.Namespace], _Reported] = getattr(module, name)
    subparser = _Parser(
        prog=f"unipic2-edge {name}",
        description=COMMANDS[name][1],
        formatter_class=_formatter,
        allow_abbrev=False,
    )
    getattr(module, f"{name}_arguments")(subparser)
    add_common_arguments(subparser)
    arguments = subparser.parse_args(rest)
    _start_logging(arguments)
    return command(arguments)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command takes."""
    parser.add_argument("--json", action="store_true", help="one JSON document as the last line of stdout")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.add_argument("--verbose", action="store_true", help="log what is done, on stderr")


def _top_parser() -> argparse.ArgumentParser:
    width = max(len(name) for name in COMMANDS)
    listing = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items())
    parser = _Parser(
        prog="unipic2-edge",
        usage="unipic2-edge COMMAND [ARGUMENTS]",
        description=f"UniPic 2.0 on RTX, Jetson and plain CPUs.\n\ncommands:\n{listing}",
        epilog="unipic2-edge COMMAND --help describes a command.",
        formatter_class=_formatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    return parser


class _Version(argparse.Action):
    """Looks the version up only when it is asked for: that costs more than the rest of `--help`."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"unipic2-edge {version('unipic2-edge')}")
        parser.exit()


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, width=_HELP_WIDTH)


def _import(name: str) -> Any:
    """The command's module; a missing optional library is the user's to install."""
    try:
        return import_module(COMMANDS[name][0])
    except ModuleNotFoundError as error:
        raise _missing(error) from error


def _missing(error: ModuleNotFoundError) -> MissingDependencyError:
    extra = _EXTRAS.get((error.name or "").partition(".")[0], "demo")
    return MissingDependencyError(
        f"{error.name} is not installed", f'install it with: pip install "unipic2-edge[{extra}]"'
    )


_EXTRAS = {
    "onnxruntime": "cpu",
    "openvino": "openvino",
    "torch": "export",
    "diffusers": "export",
    "transformers": "export",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "accelerate": "train",
    "huggingface_hub": "hub",
    "httpx": "hub",
    "tensorboard": "train",
    "scipy": "bench",
    "ray": "ray",
    "pyarrow": "ray",
    "pandas": "ray",
    "starlette": "serve",
    "uvicorn": "serve",
    "anyio": "serve",
    "prometheus_client": "serve",
    "psutil": "bench",
}


def _start_logging(arguments: argparse.Namespace) -> None:
    level = logging.INFO if arguments.verbose else logging.WARNING
    logging.basicConfig(stream=sys.stderr, level=level, format="%(levelname)s %(name)s: %(message)s")


def _unexpected(error: Exception, as_json: bool) -> int:
    """A missing library is a request's error; anything else is ours, and says so in one line."""
    if isinstance(error, ModuleNotFoundError):
        refused = _missing(error)
        return _report(refused.problem, refused.mend, type(refused).__name__, 2, as_json)
    logging.getLogger(__name__).info("unexpected error", exc_info=error)
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return _report(
        f"unexpected {type(error).__name__}: {text}",
        "run again with --verbose and report it",
        "Unexpected",
        1,
        as_json,
    )


def _report(problem: str, mend: str, kind: str, code: int, as_json: bool) -> int:
    print(f"error: {problem}", file=sys.stderr)
    if mend:
        print(f"  mend: {mend}", file=sys.stderr)
    if as_json:
        print(json.dumps({"ok": False, "error": {"problem": problem, "mend": mend, "kind": kind}}))
    return code


if __name__ == "__main__":
    sys.exit(main())
