"""The shipped model, exported once for all test processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def checkpoint(pytestconfig: pytest.Config) -> Path:
    """The shipped checkpoint."""
    return pytestconfig.rootpath / "training" / "checkpoints" / "shapes-kontext"


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """Its fp32 bundle, built for the cpu target; do not write to it."""
    from unipic2_edge.engines.build import build_targets
    from unipic2_edge.export.builtin_recipes import find_recipe
    from unipic2_edge.export.bundle_writer import write_bundle
    from unipic2_edge.runtime.bundle import Bundle
    from unipic2_edge.training.checkpoint import Checkpoint

    def make(folder: Path) -> None:
        write_bundle(Checkpoint.open(checkpoint), folder, find_recipe("fp32"))
        build_targets(Bundle(folder), "cpu")

    return made_once("shapes-kontext", make)


@pytest.fixture(scope="session")
def words_checkpoint(pytestconfig: pytest.Config) -> Path:
    """The shipped MetaQuery checkpoint."""
    return pytestconfig.rootpath / "training" / "checkpoints" / "shapes-metaquery"


@pytest.fixture(scope="session")
def words_bundle(words_checkpoint: Path, made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """Its fp32 bundle; do not write to it."""
    from unipic2_edge.export.builtin_recipes import find_recipe
    from unipic2_edge.export.bundle_writer import write_bundle
    from unipic2_edge.training.metaquery.checkpoint import open_checkpoint

    return made_once(
        "shapes-metaquery",
        lambda folder: write_bundle(open_checkpoint(words_checkpoint), folder, find_recipe("fp32")),
    )
