"""A tiny model with random weights, exported once for all tests that need a real bundle."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a `tiny-kontext` checkpoint; do not write to it."""
    from unipic2_edge.training.init import init_checkpoint

    return init_checkpoint("tiny-kontext", tmp_path_factory.mktemp("tiny") / "tiny-kontext").folder


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of its fp32 bundle, not built; do not write to it."""
    from unipic2_edge.export.bundle_writer import write_bundle
    from unipic2_edge.export.recipes import find_recipe
    from unipic2_edge.training.checkpoint import Checkpoint

    folder = tmp_path_factory.mktemp("bundle") / "tiny-kontext"
    write_bundle(Checkpoint.open(tiny_checkpoint), folder, find_recipe("fp32"))
    return folder
