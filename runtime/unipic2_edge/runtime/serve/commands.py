"""The command `serve`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..cli import Outcome

KEY_VARIABLE = "UNIPIC2_EDGE_API_KEY"


def serve_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `serve`."""
    from .limits import Limits

    usual = Limits()
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("--host", default="127.0.0.1", help="other than loopback needs a key (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free (default: 8000)")
    parser.add_argument("--api-key", metavar="KEY", help=f"that clients must send (or in {KEY_VARIABLE})")
    parser.add_argument("--allow-host", metavar="NAME", action="append", default=[], help="may be asked as NAME, too")
    parser.add_argument("--device", default="auto", metavar="D", help="auto (default), cpu, gpu, gpu:1, cuda")
    parser.add_argument("--memory", metavar="8GB", help="of the GPU, that may be used (default: what is free)")
    parser.add_argument("--fallback", action="store_true", help="use the processor when no engine fits the GPU")
    parser.add_argument("--threads", type=int, metavar="K", help="CPU threads (default: one per core)")
    parser.add_argument("--batch", type=int, default=usual.batch, metavar="N", help="pictures at once, at most (4)")
    parser.add_argument("--waiting", type=int, default=usual.waiting, metavar="N", help="requests in the queue (64)")
    parser.add_argument("--timeout", type=float, default=usual.seconds, metavar="S", help="of a request (300)")
    parser.add_argument("--keep", type=float, default=usual.kept_seconds, metavar="S", help="of finished jobs (600)")
    parser.add_argument("--max-steps", type=int, default=usual.steps, metavar="N", help="of a request (100)")


def serve(arguments: argparse.Namespace) -> Outcome:
    """Serve a bundle until it is told to stop.

    Raises:
        RequestError: an unsafe place, a port that is taken, a limit that is none.
        BundleError, WorkError: the bundle cannot be opened.
    """
    import dataclasses

    from ..errors import RequestError
    from .limits import Limits
    from .server import Opening, Place
    from .server import serve as run

    if min(arguments.batch, arguments.waiting, arguments.max_steps) < 1 or min(arguments.timeout, arguments.keep) <= 0:
        raise RequestError("a limit of nothing serves nobody", "give numbers above 0")
    place = Place(
        arguments.host,
        arguments.port,
        arguments.api_key or os.environ.get(KEY_VARIABLE) or None,
        tuple(arguments.allow_host),
    )
    limits = dataclasses.replace(
        Limits(),
        batch=arguments.batch,
        waiting=arguments.waiting,
        seconds=arguments.timeout,
        kept_seconds=arguments.keep,
        steps=arguments.max_steps,
    )
    opening = Opening(arguments.device, arguments.threads, arguments.memory, arguments.fallback)
    run(arguments.bundle, place, opening, limits)
    return Outcome({"served": str(arguments.bundle)}, ["stopped"])
