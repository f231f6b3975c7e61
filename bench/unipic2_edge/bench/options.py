"""Options that several benchmarks have in common, and what is made of them."""

from __future__ import annotations

import argparse
import os

from unipic2_edge.runtime.errors import RequestError


def add_threads(parser: argparse.ArgumentParser, of: str = "") -> None:
    """`--threads`, read by `cpu_threads`."""
    said = f"CPU threads{of} (default: one per core)"
    parser.add_argument("--threads", type=int, metavar="K", help=said)


def cpu_threads(asked: int | None) -> int:
    """As many as were asked for, or one for each physical core."""
    import psutil

    return asked or psutil.cpu_count(logical=False) or os.cpu_count() or 1


def listed(text: str) -> list[str]:
    """The parts of "a, b,c"."""
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers(text: str, option: str) -> list[int]:
    """Whole numbers from "28,8,4".

    Raises:
        RequestError: one is none.
    """
    try:
        return [int(part) for part in listed(text)]
    except ValueError:
        raise RequestError(f"{text!r} are no numbers", f"give {option} like 28,8,4") from None
