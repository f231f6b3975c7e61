"""A tiny model with random weights, exported once for all tests that need a real bundle, on all test processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a `tiny-kontext` checkpoint; do not write to it."""
    from unipic2_edge.training.init import init_checkpoint

    return _made_once(tmp_path_factory, "tiny-kontext", lambda folder: init_checkpoint("tiny-kontext", folder))


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of its fp32 bundle, not built; do not write to it."""
    from unipic2_edge.export.bundle_writer import write_bundle
    from unipic2_edge.export.recipes import find_recipe
    from unipic2_edge.training.checkpoint import Checkpoint

    def make(folder: Path) -> None:
        write_bundle(Checkpoint.open(tiny_checkpoint), folder, find_recipe("fp32"))

    return _made_once(tmp_path_factory, "tiny-bundle/tiny-kontext", make)


def _made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first process to ask makes and the others find; it appears whole or not at all."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            make(folder)
    return folder
