"""`bench curves`: what runs of training logged, as a picture.

unipic2-edge bench curves runs/longer -o curves.png
unipic2-edge bench curves nft=runs/nft grpo=runs/grpo --over hours --values generation,editing -o curves.png
unipic2-edge bench curves both=runs/edit-rl+runs/generate-rl -o curves.svg      # the second went on from the first
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from unipic2_edge.runtime.cli import Outcome, add_common_arguments
from unipic2_edge.runtime.errors import RequestError

from .history import Axis, read_history

if TYPE_CHECKING:
    from .history import History

_SCORES = ("generation", "editing", "understanding", "generation_reward", "editing_reward")


def add_curves(kinds: Any) -> None:
    """The command's arguments."""
    parser = kinds.add_parser("curves", help="learning curves of runs of training, as a picture")
    parser.add_argument("runs", metavar="[NAME=]RUN[+RUN]", nargs="+", help="folders of runs or their log.jsonl")
    parser.add_argument("-o", "--output", metavar="FILE.png", type=Path, required=True, help=".png, .svg or .pdf")
    parser.add_argument("--over", choices=get_args(Axis), default="steps", help="what lies along the bottom")
    parser.add_argument(
        "--values", metavar="A,B", default="", help="default: the scores that were logged, else the loss"
    )
    parser.add_argument("--smooth", type=int, default=1, metavar="N", help="show the mean of the last N (default: 1)")
    add_common_arguments(parser)


def curves_outcome(arguments: argparse.Namespace) -> Outcome:
    """Draw the curves; say where each ended.

    Raises:
        RequestError: a log or a value is not there, or the picture's format is none.
        MissingDependencyError: matplotlib is not installed.
        OutputError: the picture cannot be written.
    """
    from unipic2_edge.runtime.files import write_bytes

    from .drawing import FORMATS, draw_curves

    kind = arguments.output.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise RequestError(f"{arguments.output} is none of .{', .'.join(FORMATS)}", "name one of them with -o")
    if arguments.smooth < 1:
        raise RequestError(f"the mean of the last {arguments.smooth} is none", "use 1 or more")
    histories = [_history(text) for text in arguments.runs]
    values = [part for part in arguments.values.split(",") if part] or _usual(histories)
    write_bytes(arguments.output, draw_curves(histories, values, arguments.over, arguments.smooth, kind))
    ends = {history.name: _ends(history, values) for history in histories}
    said = [
        f"{name}: " + ", ".join(f"{value} {end:.4g}" for value, end in found.items()) for name, found in ends.items()
    ]
    return Outcome({"output": str(arguments.output), "ends": ends}, [*said, f"{arguments.output}: {len(values)} plots"])


def _history(text: str) -> History:
    """Of an argument: its name, or that of the last run's folder, and the runs that went on from each other."""
    name, equals, paths = text.rpartition("=")
    runs = [Path(part) for part in paths.split("+")]
    return read_history(name if equals else runs[-1].stem, runs)


def _usual(histories: list[History]) -> list[str]:
    logged = {name for history in histories for name in history.names()}
    return [name for name in _SCORES if name in logged] or ["loss"]


def _ends(history: History, values: list[str]) -> dict[str, float]:
    curves = {value: history.curve(value, "steps") for value in values}
    return {value: points[-1][1] for value, points in curves.items() if points}
