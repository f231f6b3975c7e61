"""Shards by name: braces, globs, folders, and what is wrong with them in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from unipic2_edge.training.data.patterns import braces, find_shards
from unipic2_edge.training.errors import DataError


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a-{000..002}.tar", ["a-000.tar", "a-001.tar", "a-002.tar"]),
        ("{a,b}/{8..10}", ["a/8", "a/9", "a/10", "b/8", "b/9", "b/10"]),
        ("{x,{1..2}}", ["x", "1", "x", "2"]),
        ("plain", ["plain"]),
    ],
)
def test_braces(pattern: str, names: list[str]) -> None:
    assert sorted(set(braces(pattern))) == sorted(set(names))


@pytest.mark.parametrize("pattern", ["{3..1}", "{0..99999999}"])
def test_ranges_that_make_no_sense(pattern: str) -> None:
    with pytest.raises(DataError, match="empty or too long"):
        list(braces(pattern))


def test_files_folders_globs_and_braces_find_the_same(tmp_path: Path) -> None:
    names = [f"a-{number}.tar" for number in range(3)]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "readme.txt").write_text("not a shard")
    expected = [tmp_path / name for name in names]
    for pattern in ("", "a-*.tar", "a-{0..2}.tar", "{a-0,a-1,a-2}.tar", "**/*.tar"):
        assert find_shards(str(tmp_path / pattern)) == expected
    assert find_shards(str(tmp_path / "a-1.tar")) == expected[1:2]


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("none-*.tar", "no shard matches"),
        ("a-{0..4}.tar", "3 of the 5 shards .* are not there, .*a-2.tar the first"),
        ("c.tar.gz", r"c\.tar\.gz is neither"),
        ("{a-0.tar,b.parquet}", "has both .tar and .parquet"),
        ("empty", "no shard matches"),
    ],
)
def test_what_cannot_be_read_is_told(pattern: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("a-0.tar", "a-1.tar", "b.parquet", "c.tar.gz"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=reason):
        find_shards(str(tmp_path / pattern))
