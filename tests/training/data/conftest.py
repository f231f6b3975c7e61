"""The shapes world as shards of both formats, made once, and recipes that read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from unipic2_edge.training.data.kinds import FIELDS
from unipic2_edge.training.data.world import shapes_records
from unipic2_edge.training.data.writers import write_shards
from unipic2_edge.training.recipe import Recipe, load_recipe
from unipic2_edge.training.shapes.scene import Canvas

RECORDS, PER_SHARD = 60, 16
MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`webdataset/` and `parquet/`, each with 60 records of every kind in shards of 16; do not write to it."""
    folder = tmp_path_factory.mktemp("shards")
    canvases = [Canvas(64, 64), Canvas(96, 64)]
    for name in ("webdataset", "parquet"):
        (folder / name).mkdir()
        for kind in FIELDS:
            records = shapes_records(kind, RECORDS, canvases, seed=3)
            write_shards(folder / name, kind, records, RECORDS, PER_SHARD, name)  # type: ignore[arg-type]
    return folder


@pytest.fixture
def make_recipe(tmp_path: Path) -> MakeRecipe:
    """A recipe of the denoiser stage from (kind, path) of its sources, with overrides."""

    def make(*sources: tuple[str, Path | str], **changes: object) -> Recipe:
        tables = "".join(f'[[data.sources]]\nkind = "{kind}"\npath = "{path}"\n' for kind, path in sources)
        path = tmp_path / "recipe.toml"
        path.write_text(
            'name = "test"\nstage = "denoiser"\nconfig = "tiny-kontext"\nbatch_size = 4\n'
            '[schedule]\nsteps = 4\n[data]\nkind = "shards"\nsizes = [[64, 64], [96, 64]]\nsize_weights = [1, 1]\n'
            f"[data.shards]\nshuffle = 20\nworkers = 2\n{tables}",
            encoding="utf-8",
        )
        return load_recipe(str(path), [f"{key}={value}" for key, value in changes.items()])

    return make
