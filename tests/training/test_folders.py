"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from unipic2_edge.training.errors import OutputError, WorkError
from unipic2_edge.training.folders import publishing


def test_the_folder_appears_at_the_end(tmp_path: Path) -> None:
    with publishing(tmp_path / "deep" / "made") as temporary:
        (temporary / "file").write_text("whole")
        assert not (tmp_path / "deep" / "made").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["made"]
    assert (tmp_path / "deep" / "made" / "file").read_text() == "whole"


def test_an_empty_folder_may_stand_there(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    with publishing(tmp_path / "made") as temporary:
        (temporary / "file").write_text("whole")
    assert (tmp_path / "made" / "file").exists()


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "made").write_text("mine")
    with pytest.raises(OutputError, match="exists already"), publishing(tmp_path / "made"):
        pass
    with pytest.raises(OutputError, match="cannot write"), publishing(tmp_path / "made" / "below"):
        pass
    assert (tmp_path / "made").read_text() == "mine"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot write"), publishing(tmp_path / "made"):
        pass


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("I/O error: No space left")])
def test_a_full_disk(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(WorkError, match="no space left"), publishing(tmp_path / "made") as temporary:
        (temporary / "file").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), publishing(tmp_path / "made"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_only_when_asked_and_when_the_new_one_is_whole(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "file").write_text("old")
    with pytest.raises(KeyboardInterrupt), publishing(tmp_path / "made", replace=True):
        raise KeyboardInterrupt
    assert (tmp_path / "made" / "file").read_text() == "old"
    with publishing(tmp_path / "made", replace=True) as temporary:
        (temporary / "file").write_text("new")
        assert (tmp_path / "made" / "file").read_text() == "old"
    assert (tmp_path / "made" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
