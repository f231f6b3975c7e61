"""A tiny random checkpoint, made once for all tests of this folder."""

from __future__ import annotations

import pytest

from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.init import init_checkpoint
from unipic2_edge.training.metaquery.checkpoint import MetaqueryCheckpoint


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """`tiny-kontext` with random weights."""
    return init_checkpoint("tiny-kontext", tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="session")
def tiny_metaquery(tmp_path_factory: pytest.TempPathFactory) -> MetaqueryCheckpoint:
    """`tiny-metaquery` with random weights."""
    made = init_checkpoint("tiny-metaquery", tmp_path_factory.mktemp("checkpoint") / "tiny-metaquery")
    return MetaqueryCheckpoint.open(made.folder)
