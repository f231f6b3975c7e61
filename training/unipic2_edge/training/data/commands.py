"""data's command: `shards`, the shapes world written as training data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import cast

from ..commands import Outcome
from ..errors import RequestError
from ..folders import publishing
from ..shapes.scene import Canvas
from .buckets import STEP
from .kinds import FIELDS, Kind


def shards_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `shards`."""
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to make")
    parser.add_argument("--format", choices=("webdataset", "parquet"), default="webdataset", help="tars, or Parquet")
    parser.add_argument("--records", metavar="N", type=int, default=10_000, help="of each kind (10000)")
    parser.add_argument("--kinds", metavar="A,B", default=",".join(FIELDS), help=f"some of {', '.join(FIELDS)} (all)")
    parser.add_argument("--size", metavar="WxH[,WxH]", default="64x64", help="of the pictures, drawn evenly (64x64)")
    parser.add_argument("--per-shard", metavar="N", type=int, default=1000, help="records of a shard (1000)")
    parser.add_argument("--seed", type=int, default=0)


def shards(arguments: argparse.Namespace) -> Outcome:
    """Write the shapes world as shards, in a folder that appears whole or not at all.

    Raises:
        RequestError: a kind, size or number makes no sense.
        OutputError: the folder exists and is not empty, or cannot be written.
        WorkError: the disk is full.
    """
    from tqdm.auto import tqdm

    from .world import shapes_records
    from .writers import write_shards

    kinds, canvases = _kinds(arguments.kinds), _canvases(arguments.size)
    if min(arguments.records, arguments.per_shard) < 1 or arguments.seed < 0:
        raise RequestError("--records and --per-shard must be positive, --seed not negative", "see: shards --help")
    made: dict[str, list[Path]] = {}
    quiet = arguments.quiet or arguments.json
    with publishing(arguments.out) as folder:
        for kind in kinds:
            records = shapes_records(kind, arguments.records, canvases, arguments.seed)
            bar = tqdm(records, kind, arguments.records, disable=quiet, unit="record")
            made[kind] = write_shards(folder, kind, bar, arguments.records, arguments.per_shard, arguments.format)
        size = sum(path.stat().st_size for paths in made.values() for path in paths)
    counts = {kind: len(paths) for kind, paths in made.items()}
    lines = [f"{arguments.out}: {arguments.records} records of each kind, {size / 1e6:.1f} MB"]
    lines += [f"  {kind}: {count} shards" for kind, count in counts.items()]
    result: dict[str, object] = {
        "folder": str(arguments.out),
        "format": arguments.format,
        "records": arguments.records,
        "shards": counts,
        "bytes": size,
    }
    return Outcome(result, lines)


def _kinds(words: str) -> list[Kind]:
    kinds = list(dict.fromkeys(words.split(",")))
    unknown = [kind for kind in kinds if kind not in FIELDS]
    if unknown:
        raise RequestError(f"there is no kind of record {unknown[0]!r}", f"use some of {', '.join(FIELDS)}")
    return [cast(Kind, kind) for kind in kinds]


def _canvases(words: str) -> list[Canvas]:
    canvases = []
    for word in words.split(","):
        width, _, height = word.partition("x")
        sides = [int(side) if side.isdecimal() else 0 for side in (width, height)]
        if min(sides) < STEP or any(side % STEP for side in sides):
            raise RequestError(f"{word!r} is no size of pictures", f"give WxH in multiples of {STEP}, e.g. 64x64")
        canvases.append(Canvas(*sides))
    return canvases
