"""`shards`: whole folders, the same bytes for a seed, and wrong requests in two lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pyarrow import parquet

from unipic2_edge.runtime.cli import main


def _shards(*words: object) -> int:
    return main(["shards", *map(str, words), "--records", "6", "--per-shard", "4", "--json"])


@pytest.mark.parametrize("form", ["webdataset", "parquet"])
def test_it_writes_the_kinds_asked_for_the_same_every_time(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        assert _shards(tmp_path / name, "--format", form, "--kinds", "captions,questions", "--size", "64x64,96x64") == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["shards"] == {"captions": 2, "questions": 2}
    files = [sorted((tmp_path / name).iterdir()) for name in ("one", "two")]
    assert [path.stem for path in files[0]] == [
        "captions-000000",
        "captions-000001",
        "questions-000000",
        "questions-000001",
    ]
    assert said["bytes"] == sum(path.stat().st_size for path in files[0])
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


def test_parquet_says_what_hugging_face_wants_to_know(tmp_path: Path) -> None:
    assert _shards(tmp_path / "out", "--format", "parquet", "--kinds", "edits") == 0
    schema = parquet.read_schema(tmp_path / "out" / "edits-000000.parquet")
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert {name for name, kind in features.items() if kind["_type"] == "Image"} == {"source", "target"}
    assert features["instruction"] == {"dtype": "string", "_type": "Value"}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--kinds", "captions,poems"], "no kind of record 'poems'"),
        (["--size", "60x64"], "'60x64' is no size"),
        (["--size", "64"], "'64' is no size"),
        (["--records", "0"], "must be positive"),
    ],
)
def test_wrong_requests_change_nothing(
    words: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shards", str(tmp_path / "out"), *words]) == 2
    assert problem in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    assert _shards(tmp_path) == 2
    assert "not empty" in capsys.readouterr().out + capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
