"""Tars and Parquet: what is written is read, by us from anywhere on, and by the libraries they are named after."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pytest
import webdataset
from pyarrow import parquet

from unipic2_edge.training.data.formats import FORMATS
from unipic2_edge.training.data.kinds import FIELDS, Kind, places_of
from unipic2_edge.training.data.records import BadRecordError, BrokenShardError, bytes_of, picked, text_of
from unipic2_edge.training.data.tars import read_tar, split
from unipic2_edge.training.data.world import shapes_records
from unipic2_edge.training.shapes.scene import Canvas

FOLDERS = {"webdataset": ".tar", "parquet": ".parquet"}


def _values(raw: Any, names: dict[str, tuple[str, ...]]) -> dict[str, bytes | str]:
    found = {field: picked(raw.values, where) for field, where in names.items()}
    return {
        field: text_of(value, 1000) if field in ("caption", "instruction", "question", "answer") else bytes_of(value)
        for field, value in found.items()
    }


@pytest.mark.parametrize("kind", FIELDS)
@pytest.mark.parametrize("name", FOLDERS)
def test_what_is_written_is_read(name: str, kind: Kind, shards: Path) -> None:
    suffix = FOLDERS[name]
    names = places_of(kind, name == "parquet", {})
    wanted = {each for where in names.values() for each in where}
    paths = sorted((shards / name).glob(f"{kind}-*{suffix}"))
    assert len(paths) == 4
    found = [_values(raw, names) for path in paths for raw in FORMATS[suffix].read(path, 0, 0, wanted)]
    assert found == list(shapes_records(kind, 60, [Canvas(64, 64), Canvas(96, 64)], seed=3))


@pytest.mark.parametrize("name", FOLDERS)
def test_reading_goes_on_from_any_record_and_finds_records_again(name: str, shards: Path) -> None:
    suffix = FOLDERS[name]
    path = next((shards / name).glob(f"edits-000001{suffix}"))
    form = FORMATS[suffix]
    wanted = {"source.png", "target.png", "instruction.txt", "source", "target", "instruction"}
    whole = list(form.read(path, 0, 0, wanted))
    for start in (1, 7, 15):
        again = list(form.read(path, whole[start - 1].after, start, wanted))
        assert again == whole[start:]
    assert list(form.read(path, whole[-1].after, 16, wanted)) == []
    asked = [whole[number] for number in (0, 3, 4, 15)]
    assert list(form.read_at(path, [(raw.offset, raw.number) for raw in asked], wanted)) == asked
    with pytest.raises(BrokenShardError, match="any more"):
        list(form.read_at(path, [(whole[-1].after, 16)], wanted))


def test_parquet_is_read_across_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = arrow.table({"text": [f"t{row}" for row in range(100)], "other": list(range(100))})
    parquet.write_table(table, path, row_group_size=30)
    form = FORMATS[".parquet"]
    assert [raw.values for raw in form.read(path, 29, 29, {"text"})] == [{"text": f"t{row}"} for row in range(29, 100)]
    rows = [2, 29, 30, 31, 95]
    found = form.read_at(path, [(row, row) for row in rows], {"text"})
    assert [raw.values["text"] for raw in found] == [f"t{row}" for row in rows]


def test_the_webdataset_library_reads_our_tars_as_we_do(shards: Path) -> None:
    path = shards / "webdataset" / "edits-000000.tar"
    theirs = list(webdataset.WebDataset(str(path), shardshuffle=False))
    ours = list(read_tar(path, 0, 0, {"source.png", "target.png", "instruction.txt"}))
    assert [sample["__key__"] for sample in theirs] == [raw.key for raw in ours]
    assert [{name: sample[name] for name in raw.values} for sample, raw in zip(theirs, ours, strict=True)] == [
        raw.values for raw in ours
    ]


def test_we_read_what_the_webdataset_library_writes(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for number in range(3):
            writer.write(
                {"__key__": f"deep/{number:03d}", "jpg": b"picture", "txt": f"é{number}", "json": {"n": number}}
            )
    found = list(read_tar(path, 0, 0, {"jpg", "txt", "json"}))
    assert [(raw.key, raw.values["txt"].decode()) for raw in found] == [(f"deep/00{n}", f"é{n}") for n in range(3)]


@pytest.mark.parametrize(
    ("name", "key", "ending"),
    [("a/b.c.png", "a/b", "c.png"), ("./001.JPG", "001", "jpg"), ("x.d/y", "x.d/y", ""), ("x.d/y.txt", "x.d/y", "txt")],
)
def test_members_are_split_at_the_first_dot_of_their_name(name: str, key: str, ending: str) -> None:
    assert split(name) == (key, ending)


@pytest.mark.parametrize("keep", [0.05, 0.3, 0.5, 0.77])
def test_a_cut_tar_gives_whole_records_and_then_says_so(keep: float, shards: Path, tmp_path: Path) -> None:
    whole = shards / "webdataset" / "captions-000000.tar"
    content = whole.read_bytes()
    path = tmp_path / "cut.tar"
    path.write_bytes(content[: int(keep * len(content))])
    wanted = {"png", "txt"}
    found = []
    with pytest.raises(BrokenShardError, match=r"cut\.tar"):
        for raw in read_tar(path, 0, 0, wanted):
            found.append(raw)
    assert found == list(read_tar(whole, 0, 0, wanted))[: len(found)]
    assert all(len(raw.values) == 2 for raw in found)


def test_a_tar_that_is_garbled_in_the_middle_is_not_taken_for_its_end(shards: Path, tmp_path: Path) -> None:
    whole = shards / "webdataset" / "captions-000000.tar"
    fifth = list(read_tar(whole, 0, 0, {"png"}))[5]
    content = bytearray(whole.read_bytes())
    content[fifth.offset : fifth.offset + 512] = b"\xff" * 512
    (tmp_path / "bad.tar").write_bytes(content)
    found = []
    with pytest.raises(BrokenShardError, match="garbled"):
        for raw in read_tar(tmp_path / "bad.tar", 0, 0, {"png"}):
            found.append(raw)
    assert len(found) == 4  # of the fifth nobody knows whether it was whole


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("content", [b"", b"not a shard at all" * 100])
def test_what_is_no_shard_is_said_to_be_broken(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(BrokenShardError):
        list(FORMATS[suffix].read(path, 0, 0, {"txt"}))


def test_an_empty_tar_and_an_empty_table_are_no_mistake(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w"):
        pass
    parquet.write_table(arrow.table({"text": arrow.array([], arrow.string())}), tmp_path / "a.parquet")
    for suffix in FORMATS:
        assert list(FORMATS[suffix].read(tmp_path / f"a{suffix}", 0, 0, {"text"})) == []


def test_long_names_and_folders_in_tars_are_read(tmp_path: Path) -> None:
    path, name = tmp_path / "a.tar", "long/" + "n" * 180
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(path, "w", format=form) as archive:
            folder = tarfile.TarInfo("long")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
            for number in range(3):
                member = tarfile.TarInfo(f"{name}{number}.txt")
                member.size = 1
                archive.addfile(member, io.BytesIO(str(number).encode()))
        found = list(read_tar(path, 0, 0, {"txt"}))
        assert [raw.values["txt"] for raw in found] == [b"0", b"1", b"2"]
        assert list(read_tar(path, found[0].after, 1, {"txt"})) == found[1:]


def test_fields_are_found_by_name_or_inside_json() -> None:
    values = {"json": b'{"caption": "hi", "n": 3}', "txt": None, "list": ["first", "second"]}
    assert text_of(picked(values, ("txt", "json:caption")), 10) == "hi"
    assert text_of(picked(values, ("list",)), 10) == "first"
    for names, reason in ((("txt",), "none of txt"), (("json:no",), "none of"), (("json:n",), "is int")):
        with pytest.raises(BadRecordError, match=reason):
            text_of(picked(values, names), 10)
    with pytest.raises(BadRecordError, match="not JSON"):
        picked({"json": b"{"}, ("json:caption",))


@pytest.mark.parametrize(
    ("value", "reason"),
    [(" \n", "empty"), ("x" * 11, "11 characters"), (b"\xff\xfe", "UTF-8"), (None, "NoneType"), ([], "list")],
)
def test_texts_that_cannot_be_used(value: Any, reason: str) -> None:
    with pytest.raises(BadRecordError, match=reason):
        text_of(value, 10)


@pytest.mark.parametrize("value", [{"bytes": None, "path": "a.png"}, "a.png", b"", None])
def test_pictures_without_bytes_are_not_looked_for_elsewhere(value: Any) -> None:
    with pytest.raises(BadRecordError, match="not followed"):
        bytes_of(value)
