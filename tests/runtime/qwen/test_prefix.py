"""The longest common start of sequences is found, never more; what is kept stays within its bytes."""

from __future__ import annotations

import numpy as np
import pytest

from unipic2_edge.runtime.qwen.key_values import KeyValues
from unipic2_edge.runtime.qwen.prefix import PrefixCache, common_length
from unipic2_edge.runtime.qwen.preprocessing import SeenPicture
from unipic2_edge.runtime.qwen.sequence import QUERY, TokenSequence

from .conftest import IMAGE_PAD, SETTINGS

TOKEN_BYTES = 2 * 2 * 4 * 4  # key and value, 2 heads, 4 values in float32


def _cache(length: int, seed: int = 0) -> KeyValues:
    rng = np.random.default_rng(seed)
    return KeyValues(tuple(rng.standard_normal((1, 2, length, 4)).astype(np.float32) for _ in range(2)))


def _marks(*ids: int) -> np.ndarray:
    return np.array(ids, np.int64)


def _picture(digest: bytes, grid: tuple[int, int, int] = (1, 4, 4)) -> SeenPicture:
    return SeenPicture(np.zeros((grid[1] * grid[2], 1176), np.float32), grid, digest)


def test_the_longest_common_start_is_used_and_cut() -> None:
    prefixes, short, long = PrefixCache(1 << 20), _cache(3, 1), _cache(5, 2)
    prefixes.put(_marks(9, 9, 9), "mrope", short)
    prefixes.put(_marks(1, 2, 3, 4, 5), "mrope", long)
    found = prefixes.match(_marks(1, 2, 3, 7, 5, 6), "mrope", 6)
    assert found is not None
    assert found.length == 3
    for whole, start in zip(long.arrays, found.arrays, strict=True):
        np.testing.assert_array_equal(start, whole[:, :, :3])
        assert start.flags.c_contiguous
    assert long.length == 5
    assert prefixes.match(_marks(1, 2, 3, 4, 5), "mrope", 4).length == 4  # type: ignore[union-attr]
    assert prefixes.match(_marks(1, 2, 3, 4, 5), "mrope", 5) is long


def test_another_start_or_another_rope_is_not_used() -> None:
    prefixes = PrefixCache(1 << 20)
    assert prefixes.match(_marks(1), "mrope", 1) is None
    prefixes.put(_marks(1, 2), "mrope", _cache(2))
    assert prefixes.match(_marks(2, 2), "mrope", 2) is None
    assert prefixes.match(_marks(1, 2), "sequential", 2) is None
    assert prefixes.match(_marks(1, 2), "mrope", 0) is None
    prefixes.clear()
    assert prefixes.match(_marks(1, 2), "mrope", 2) is None


def test_a_longer_sequence_replaces_its_own_start() -> None:
    prefixes = PrefixCache(1 << 20)
    prefixes.put(_marks(1, 2), "mrope", _cache(2))
    prefixes.put(_marks(1, 2), "sequential", _cache(2))
    prefixes.put(_marks(1, 2, 3), "mrope", _cache(3))
    assert len(prefixes) == 2
    prefixes.put(_marks(1, 2, 3), "mrope", _cache(3, 4))
    assert len(prefixes) == 2


def test_the_least_recently_used_goes_first() -> None:
    prefixes = PrefixCache(10 * TOKEN_BYTES)
    for first in (10, 20, 30):
        prefixes.put(_marks(first, 1, 2), "mrope", _cache(3))
    assert prefixes.match(_marks(10, 1, 2), "mrope", 3) is not None
    prefixes.put(_marks(40, 1, 2), "mrope", _cache(3))
    assert prefixes.nbytes == 9 * TOKEN_BYTES
    assert [prefixes.match(_marks(first), "mrope", 1) is not None for first in (10, 20, 30, 40)] == [1, 0, 1, 1]


@pytest.mark.parametrize("room", [0, 2 * TOKEN_BYTES])
def test_what_is_larger_than_all_room_is_not_kept(room: int) -> None:
    prefixes = PrefixCache(room)
    if room:
        prefixes.put(_marks(1, 2), "mrope", _cache(2))
    prefixes.put(_marks(5, 6, 7), "mrope", _cache(3))
    assert prefixes.match(_marks(5, 6, 7), "mrope", 3) is None
    assert prefixes.nbytes == room


def test_a_part_keeps_no_hold_of_the_whole() -> None:
    assert all(array.base is None for array in _cache(1000).cut(2).arrays)


@pytest.mark.parametrize(("other", "common"), [([1, 2, 3], 3), ([1, 2], 2), ([1, 2, 3, 4], 3), ([0], 0), ([], 0)])
def test_common_length(other: list[int], common: int) -> None:
    assert common_length(_marks(1, 2, 3), _marks(*other)) == common


def test_marks_tell_pictures_apart_and_words_alike() -> None:
    ids = _marks(5, *[IMAGE_PAD] * 4, 6, *[IMAGE_PAD] * 4, 7)
    one, two, three = (_picture(bytes([number]) * 32) for number in (1, 2, 3))
    first = TokenSequence(ids, (one, two)).marks(SETTINGS)
    assert (TokenSequence(ids, (one, two)).marks(SETTINGS) == first).all()
    assert common_length(first, TokenSequence(ids, (one, three)).marks(SETTINGS)) == 6
    assert common_length(first, TokenSequence(ids, (two, one)).marks(SETTINGS)) == 1
    assert (first[[0, 5, 10]] == ids[[0, 5, 10]]).all()
    assert (first[1:5] < QUERY).all()  # neither a token's mark nor a query's
    queries = TokenSequence(ids, (one, two)).with_queries(3)
    assert queries.ids[-3:].tolist() == [QUERY] * 3
    assert common_length(first, queries.marks(SETTINGS)) == len(ids)
