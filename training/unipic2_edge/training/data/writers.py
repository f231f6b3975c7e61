"""Records written as shards, in names that reading looks for: WebDataset tars, or Parquet as Hugging Face has it."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as arrow
from pyarrow import parquet

from .kinds import FIELDS, Kind
from .world import Record

ShardFormat = Literal["webdataset", "parquet"]
_ROW_GROUP = 100  # rows: what Hugging Face's writer takes for pictures

#: Field → ending of its member in a tar; pictures are PNG.
_ENDINGS = {
    "image": "png",
    "caption": "txt",
    "source": "source.png",
    "target": "target.png",
    "instruction": "instruction.txt",
    "question": "question.txt",
    "answer": "answer.txt",
}


def write_shards(
    folder: Path, kind: Kind, records: Iterable[Record], count: int, per_shard: int, shard_format: ShardFormat
) -> list[Path]:
    """Write `count` records of a kind as `folder/<kind>-000000.tar` (or `.parquet`) and so on.

    Args:
        folder: exists; its writer publishes it whole.
        kind: of the records.
        records: `count` of them.
        count: of records.
        per_shard: of records, the last shard may have fewer.
        shard_format: of the files.
    """
    remaining = iter(records)
    paths = []
    for shard in range(-(-count // per_shard)):
        some = list(islice(remaining, per_shard))
        path = folder / f"{kind}-{shard:06d}{'.tar' if shard_format == 'webdataset' else '.parquet'}"
        if shard_format == "webdataset":
            write_tar(path, some, kind, shard * per_shard)
        else:
            write_parquet(path, some, kind)
        paths.append(path)
    next(remaining, None)  # a progress bar ends only when it is asked for one more
    return paths


def write_tar(path: Path, records: Sequence[Record], kind: Kind, first: int = 0) -> None:
    """A tar of records, numbered from `first`; the same records give the same bytes."""
    with tarfile.open(path, "w") as archive:
        for number, record in enumerate(records, first):
            for field in FIELDS[kind].all:
                value = record[field]
                content = value.encode() if isinstance(value, str) else value
                member = tarfile.TarInfo(f"{kind}-{number:08d}.{_ENDINGS[field]}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def write_parquet(path: Path, records: Sequence[Record], kind: Kind) -> None:
    """A Parquet file of records, pictures as `{"bytes", "path"}` and marked as such for Hugging Face's `datasets`."""
    fields = FIELDS[kind]
    picture = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    columns = {field: [{"bytes": record[field], "path": None} for record in records] for field in fields.pictures}
    texts = {field: [record[field] for record in records] for field in fields.texts}
    features: dict[str, Any] = {field: {"_type": "Image"} for field in fields.pictures}
    features |= {field: {"dtype": "string", "_type": "Value"} for field in fields.texts}
    schema = arrow.schema(
        [(field, picture) for field in fields.pictures] + [(field, arrow.string()) for field in fields.texts],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    parquet.write_table(arrow.table({**columns, **texts}, schema=schema), path, row_group_size=_ROW_GROUP)
