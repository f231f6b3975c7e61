"""A tiny model with random weights, exported once for all tests that need a real bundle, on all test processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

MadeOnce = Callable[[str, Callable[[Path], object]], Path]


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option that draws golden pictures anew."""
    parser.addoption("--update-golden", action="store_true", help="replace the golden pictures; look at them after")


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Name a folder and how to make it: the first test process to ask makes it, the others find it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def make_once(name: str, make: Callable[[Path], object]) -> Path:
        folder = shared / name / name
        folder.parent.mkdir(exist_ok=True)
        with FileLock(shared / f"{name}.lock"):
            if not folder.exists():
                make(folder)
        return folder

    return make_once


@pytest.fixture(scope="session")
def tiny_checkpoint(made_once: MadeOnce) -> Path:
    """The folder of a `tiny-kontext` checkpoint; do not write to it."""
    from unipic2_edge.training.init import init_checkpoint

    return made_once("tiny-kontext", lambda folder: init_checkpoint("tiny-kontext", folder))


@pytest.fixture(scope="session")
def tiny_bundle(made_once: MadeOnce, tiny_checkpoint: Path) -> Path:
    """The folder of its fp32 bundle, not built; do not write to it."""
    from unipic2_edge.export.builtin_recipes import find_recipe
    from unipic2_edge.export.bundle_writer import write_bundle
    from unipic2_edge.training.checkpoint import Checkpoint

    return made_once(
        "tiny-bundle", lambda folder: write_bundle(Checkpoint.open(tiny_checkpoint), folder, find_recipe("fp32"))
    )


@pytest.fixture(scope="session")
def metaquery_checkpoint(made_once: MadeOnce) -> Path:
    """The folder of a `tiny-metaquery` checkpoint; do not write to it."""
    from unipic2_edge.training.init import init_checkpoint

    return made_once("tiny-metaquery", lambda folder: init_checkpoint("tiny-metaquery", folder))


@pytest.fixture(scope="session")
def metaquery_bundle(made_once: MadeOnce, metaquery_checkpoint: Path) -> Path:
    """The folder of its fp32 bundle, not built; do not write to it."""
    from unipic2_edge.export.builtin_recipes import find_recipe
    from unipic2_edge.export.bundle_writer import write_bundle
    from unipic2_edge.training.metaquery.checkpoint import open_checkpoint

    return made_once(
        "metaquery-bundle",
        lambda folder: write_bundle(open_checkpoint(metaquery_checkpoint), folder, find_recipe("fp32")),
    )
