"""The stream of samples: resumed as if never stopped, divided among processes, by weight, and honest about bad data."""

from __future__ import annotations

import io
import pickle
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unipic2_edge.training.data.kinds import Kind
from unipic2_edge.training.data.samples import Sample
from unipic2_edge.training.data.settings import ShardSource
from unipic2_edge.training.data.source import Source
from unipic2_edge.training.data.streams import ShardStreams
from unipic2_edge.training.errors import DataError, RecipeError, UserError, WorkError
from unipic2_edge.training.loop.share import WHOLE, Share
from unipic2_edge.training.recipe import Recipe, load_recipe

MakeRecipe = Callable[..., Recipe]
KINDS: tuple[Kind, ...] = ("captions", "edits")


def _begun(recipe: Recipe, kinds: tuple[Kind, ...] = KINDS, share: Share = WHOLE) -> ShardStreams:
    streams = ShardStreams(recipe, kinds)
    streams.begin(share)
    return streams


def _content(samples: list[Sample]) -> list[tuple[Any, ...]]:
    return [(sample.place, sample.texts, sample.size, *(view.key for view in sample.views)) for sample in samples]


def _both(make_recipe: MakeRecipe, shards: Path, **changes: object) -> Recipe:
    sources = [
        (kind, shards / form / f"{kind}-*{suffix}")
        for form, suffix in (("webdataset", ".tar"), ("parquet", ".parquet"))
        for kind in KINDS
    ]
    return make_recipe(*sources, **changes)


@pytest.mark.parametrize("crop", ["center", "random"])
def test_going_on_equals_never_having_stopped(crop: str, make_recipe: MakeRecipe, shards: Path) -> None:
    recipe = _both(make_recipe, shards, **{"data.shards.crop": crop})
    whole = _begun(recipe)
    stopped: list[bytes] = []
    expected = []
    order = [KINDS[number % 2] for number in range(40)]
    for kind in order:
        stopped.append(pickle.dumps(whole.state_dict()))
        expected.append(whole.batch(kind))
    for start in (0, 1, 21):
        resumed = _begun(recipe)
        resumed.load_state_dict(pickle.loads(stopped[start]))
        for kind, samples in zip(order[start : start + 12], expected[start:], strict=False):
            found = resumed.batch(kind)
            assert _content(found) == _content(samples)
            for ours, theirs in zip(found, samples, strict=True):
                for one, other in zip(ours.views, theirs.views, strict=True):
                    assert np.array_equal(one.picture, other.picture)  # type: ignore[arg-type]


def test_a_micro_batch_has_one_size_and_source_and_target_alike(make_recipe: MakeRecipe, shards: Path) -> None:
    streams = _begun(_both(make_recipe, shards))
    sizes = set()
    for _ in range(12):
        samples = streams.batch("edits")
        assert len(samples) == 4
        assert len({sample.size for sample in samples}) == 1
        sizes.add(samples[0].size)
        for sample in samples:
            for view in sample.views:
                assert view.picture is not None
                assert view.picture.shape == (sample.size[1], sample.size[0], 3)
    assert sizes == {(64, 64), (96, 64)}


def _epoch(path: Path, world: int, suffix: str) -> list[list[str]]:
    """What each process reads of the first epoch."""
    parts = []
    for rank in range(world):
        given = ShardSource(kind="captions", path=str(path / f"captions-*{suffix}"))
        source = Source(given, 0, 5, Share(rank, world), 0.0)
        seen = []
        while (drawn := source.draw())[0].epoch == 0:
            place, raw = drawn
            seen.append(f"{place.shard}:{raw.number}")
        parts.append(seen)
    return parts


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])  # of four shards
@pytest.mark.parametrize(("form", "suffix"), [("webdataset", ".tar"), ("parquet", ".parquet")])
def test_processes_see_disjoint_parts_whose_union_is_all(form: str, suffix: str, world: int, shards: Path) -> None:
    parts = _epoch(shards / form, world, suffix)
    together = Counter(record for part in parts for record in part)
    assert len(together) == 60
    assert set(together.values()) == {1}
    assert min(len(part) for part in parts) > 0


def test_each_process_goes_on_from_its_own_state(make_recipe: MakeRecipe, shards: Path) -> None:
    recipe = _both(make_recipe, shards)
    seen = []
    for rank in range(2):
        whole = _begun(recipe, share=Share(rank, 2))
        for _ in range(5):
            whole.batch("captions")
        state = whole.state_dict()
        expected = [_content(whole.batch("captions")) for _ in range(5)]
        resumed = _begun(recipe, share=Share(rank, 2))
        resumed.load_state_dict(state)
        assert [_content(resumed.batch("captions")) for _ in range(5)] == expected
        seen.append(str(expected))
    assert seen[0] != seen[1]


def test_every_epoch_has_every_record_in_another_order(make_recipe: MakeRecipe, shards: Path) -> None:
    recipe = make_recipe(("captions", shards / "parquet" / "captions-*.parquet"), batch_size=1)
    streams = _begun(recipe, ("captions",))
    places = [streams.batch("captions")[0].place for _ in range(140)]
    by_epoch = [[(place.shard, place.number) for place in places if place.epoch == epoch] for epoch in (0, 1)]
    assert len(by_epoch[0]) == len(set(by_epoch[0])) == 60  # all of the first are out by now
    assert by_epoch[0] != sorted(by_epoch[0])
    assert by_epoch[0][:30] != by_epoch[1][:30]


def test_sources_are_drawn_by_weight(make_recipe: MakeRecipe, shards: Path, tmp_path: Path) -> None:
    recipe = _both(make_recipe, shards)
    text = (tmp_path / "recipe.toml").read_text()
    first = text.index("path") + text[text.index("path") :].index("\n")
    (tmp_path / "recipe.toml").write_text(text[:first] + "\nweight = 3" + text[first:])
    recipe = load_recipe(str(tmp_path / "recipe.toml"))
    streams = _begun(recipe)
    drawn = Counter(sample.place.source for _ in range(100) for sample in streams.batch("captions"))
    assert drawn[0] / 400 == pytest.approx(0.75, abs=0.08)


def test_states_of_other_data_are_refused(make_recipe: MakeRecipe, shards: Path, tmp_path: Path) -> None:
    copied = tmp_path / "shards"
    shutil.copytree(shards / "webdataset", copied)
    recipe = make_recipe(("captions", copied / "captions-*.tar"))
    streams = _begun(recipe, ("captions",))
    streams.batch("captions")
    state = streams.state_dict()
    (copied / "captions-000003.tar").unlink()
    with pytest.raises(WorkError, match="have changed"):
        _begun(recipe, ("captions",)).load_state_dict(state)


# Bad input: structure is refused before training starts, single records are passed over up to a share.


def _png(size: tuple[int, int] = (64, 64)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, "red").save(stream, "PNG")
    return stream.getvalue()


def _tar(path: Path, records: list[dict[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for number, record in enumerate(records):
            for ending, content in record.items():
                member = tarfile.TarInfo(f"{number:04d}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


GOOD = {"png": _png(), "txt": b"a red picture"}
BAD: dict[str, dict[str, bytes]] = {
    "none of jpg": {"txt": b"no picture"},
    "none of txt": {"png": _png()},
    "does not decode": {"png": _png()[:60], "txt": b"cut"},
    "more than 1000000 pixels": {"png": _png((2000, 1000)), "txt": b"huge"},
    "a text is empty": {"png": _png(), "txt": b"  "},
    "more than 100": {"png": _png(), "txt": b"x" * 101},
}
_LIMITS = {"data.shards.max_pixels": 1_000_000, "data.shards.max_characters": 100}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_first_record_stops_before_training(reason: str, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", [BAD[reason], GOOD])
    with pytest.raises(DataError, match=reason) as caught:
        ShardStreams(make_recipe(("captions", path), **_LIMITS), ("captions",))
    assert "its fields are" in caught.value.mend


@pytest.mark.parametrize("reason", BAD)
def test_single_bad_records_are_passed_over_counted_and_logged(
    reason: str, make_recipe: MakeRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = [GOOD] * 60
    records[17] = BAD[reason]
    recipe = make_recipe(("captions", _tar(tmp_path / "a.tar", records)), **_LIMITS)
    streams = _begun(recipe, ("captions",))
    for _ in range(25):
        assert all(sample.place.number != 17 for sample in streams.batch("captions"))
    assert streams.counts()["bad_records"] in (1.0, 2.0)
    assert "a.tar, record 17 (0017)" in caplog.text
    assert reason in caplog.text


def test_too_many_bad_records_stop_the_run(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    records = [GOOD, *[BAD["a text is empty"], GOOD] * 20]
    path = _tar(tmp_path / "a.tar", records)
    streams = _begun(make_recipe(("captions", path)), ("captions",))
    with pytest.raises(WorkError, match=r"3 of \d+ records of .*a\.tar are bad; .*a text is empty"):
        for _ in range(20):
            streams.batch("captions")
    generous = _begun(make_recipe(("captions", path), **{"data.shards.max_bad_share": 0.5}), ("captions",))
    for _ in range(20):
        generous.batch("captions")


def test_a_broken_shard_gives_what_it_has_and_two_stop_the_run(
    make_recipe: MakeRecipe, shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copied = tmp_path / "shards"
    shutil.copytree(shards / "webdataset", copied)
    broken = copied / "captions-000001.tar"
    broken.write_bytes(broken.read_bytes()[:20_000])
    recipe = make_recipe(("captions", copied / "captions-*.tar"), batch_size=1)
    streams = _begun(recipe, ("captions",))
    seen = {streams.batch("captions")[0].place[2:4] for _ in range(150)}
    assert 44 < len(seen) < 60
    assert "captions-000001.tar" in caplog.text
    broken = copied / "captions-000002.tar"
    broken.write_bytes(broken.read_bytes()[:20_000])
    streams = _begun(recipe, ("captions",))
    with pytest.raises(WorkError, match=r"2 of the 4 shards .* are broken"):
        for _ in range(150):
            streams.batch("captions")


def test_sources_that_have_nothing_are_refused(make_recipe: MakeRecipe, shards: Path, tmp_path: Path) -> None:
    empty = _tar(tmp_path / "empty.tar", [])
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    cases: list[tuple[str, Path, type[UserError], str]] = [
        ("captions", empty, DataError, "has no records"),
        ("captions", tmp_path / "broken.parquet", DataError, "broken shard"),
        ("captions", tmp_path / "none-*.tar", DataError, "no shard matches"),
        ("captions", shards / "parquet" / "edits-*.parquet", DataError, "none of caption, text is there"),
        ("edits", shards / "parquet" / "edits-*.parquet", RecipeError, "data.sources has no captions"),
    ]
    for kind, path, error, reason in cases:
        with pytest.raises(error, match=reason):
            ShardStreams(make_recipe((kind, path)), ("captions",))
    with pytest.raises(RecipeError, match="nothing is trained on questions"):
        sources = [(kind, shards / "parquet" / f"{kind}-*.parquet") for kind in ("captions", "questions")]
        ShardStreams(make_recipe(*sources), ("captions",))
    with pytest.raises(WorkError, match="for process 3 of 3"):
        lonely = Source(
            ShardSource(kind="captions", path=str(_tar(tmp_path / "two.tar", [GOOD] * 2))), 0, 0, Share(2, 3), 0
        )
        lonely.draw()


def test_fields_are_named_in_the_recipe(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", [{"img.png": _png(), "meta.json": b'{"alt": "words"}'}] * 8)
    recipe = make_recipe(("captions", path))
    with pytest.raises(DataError, match="none of txt"):
        ShardStreams(recipe, ("captions",))
    text = (tmp_path / "recipe.toml").read_text()
    (tmp_path / "recipe.toml").write_text(text + 'fields = { image = "img.png", caption = "meta.json:alt" }\n')
    named = load_recipe(str(tmp_path / "recipe.toml"))
    assert _begun(named, ("captions",)).batch("captions")[0].texts == ("words",)
    (tmp_path / "recipe.toml").write_text(text + 'fields = { picture = "img.png" }\n')
    with pytest.raises(RecipeError, match="no field picture; they have image, caption"):
        load_recipe(str(tmp_path / "recipe.toml"))


def test_pairs_of_different_shape_are_bad_and_of_different_size_are_not(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    def pair(source: tuple[int, int], target: tuple[int, int]) -> dict[str, bytes]:
        return {"source.png": _png(source), "target.png": _png(target), "txt": b"change it"}

    good = _tar(tmp_path / "a.tar", [pair((128, 128), (64, 64))] * 4)
    samples = _begun(make_recipe(("edits", good)), ("edits",)).batch("edits")
    assert {view.picture.shape for view in samples[0].views if view.picture is not None} == {(64, 64, 3)}
    bad = _tar(tmp_path / "b.tar", [pair((128, 64), (64, 64))])
    with pytest.raises(DataError, match="differ in shape: 128×64 and 64×64"):
        ShardStreams(make_recipe(("edits", bad)), ("edits",))


def test_pictures_that_are_too_small_are_passed_over_without_being_bad(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    small = {"png": _png((10, 10)), "txt": b"small"}
    mixed = _begun(make_recipe(("captions", _tar(tmp_path / "a.tar", [small, GOOD] * 8))), ("captions",))
    for _ in range(8):
        assert all(sample.place.number % 2 for sample in mixed.batch("captions"))
    assert mixed.counts()["bad_records"] == 0
    only = _begun(make_recipe(("captions", _tar(tmp_path / "b.tar", [small] * 8))), ("captions",))
    with pytest.raises(WorkError, match=r"too small for their sizes; .* 10×10"):
        only.batch("captions")
