"""What a recipe says about shards."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..section import AtLeastOne, Count, Fraction, Positive, Section, Whole
from .kinds import FIELDS, Kind


class ShardSource(Section, frozen=True):
    """Records of one kind in WebDataset tars or Parquet files."""

    kind: Kind
    path: str  # a file, a folder, a glob, or with braces: train-{000000..000099}.tar
    weight: Positive = 1.0  # among the sources of its kind
    #: Field → member's ending or column (`a;b`: the first that is there), where it is not the default.
    fields: dict[str, str] = msgspec.field(default_factory=dict)


class Shards(Section, frozen=True):
    """How records of shards become micro-batches; see training/README.md."""

    side: Whole = 0  # pixels: a picture takes up to side², in multiples of 32; 0: the sizes of `data.sizes`
    longest: AtLeastOne = 2.0  # the largest ratio of a picture's sides within that budget
    crop: Literal["center", "random"] = "center"
    shuffle: Count = 1000  # records that are drawn from at random
    workers: Count = 4  # threads that decode
    max_pixels: Count = 64_000_000  # larger pictures are bad records, told by their headers
    max_enlargement: Positive = 4.0  # pictures that would be enlarged more are passed over
    max_characters: Count = 4000  # longer texts are bad records; what the tokenizers do not take is cut
    max_bad_share: Fraction = 0.01
    cache: Literal["none", "latents", "all"] = "none"  # all: latents and text embeddings
    cache_folder: str | None = None  # <output>/cache
    judge: Literal["probe", "shapes"] = "probe"  # samples of the data's own first records, or the shapes world's scores


def problems_of_shards(kind: str, sources: tuple[ShardSource, ...], shards: Shards) -> dict[str, bool]:
    """What can be wrong with a recipe's shards, and whether it is."""
    problems = {
        "data.sources are missing": kind == "shards" and not sources,
        'data.sources are for data.kind = "shards"': kind == "shapes" and bool(sources),
        "data.shards.side must be 0, or 32 or more": 0 < shards.side < 32,
    }
    for source in sources:
        unknown = ", ".join(sorted(set(source.fields) - set(FIELDS[source.kind].all)))
        known = ", ".join(FIELDS[source.kind].all)
        problems[f"{source.kind} have no field {unknown}; they have {known}"] = bool(unknown)
    return problems
