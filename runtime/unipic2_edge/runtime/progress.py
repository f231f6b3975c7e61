"""Progress bars: on stderr, silent with `--quiet`, and when stderr is no terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(total: int | None, unit: str, arguments: argparse.Namespace) -> Iterator[Callable[[str], None]]:
    """A bar of `total` units, or of how many it will be; call what it yields with the name of each one that is done."""
    from tqdm import tqdm

    silent = arguments.quiet or not sys.stderr.isatty()
    with tqdm(total=total, unit=unit, file=sys.stderr, disable=silent, leave=False) as bar:

        def advance(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update()

        yield advance
