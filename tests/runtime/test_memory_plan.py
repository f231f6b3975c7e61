"""The memory plan: what stays, what comes and goes, and what is refused."""

from __future__ import annotations

import itertools

import pytest

from unipic2_edge.runtime.errors import RequestError
from unipic2_edge.runtime.memory_plan import Need, parse_memory, plan_memory

GB = 10**9
NEEDS = [
    Need("text", 10 * GB, 0),
    Need("modulation", 2 * GB, 0),
    Need("denoiser", 3 * GB, GB),
    Need("vae", 0, 2 * GB),
]


def test_everything_stays_where_there_is_room() -> None:
    plan = plan_memory(NEEDS, 17 * GB, context=0)
    assert plan.resident == ("text", "modulation", "denoiser", "vae")
    assert plan.swapped == ()
    assert plan.peak_bytes == 17 * GB


def test_what_does_not_fit_beside_the_others_comes_and_goes() -> None:
    plan = plan_memory(NEEDS, 16 * GB, context=0)
    assert plan.swapped == ("modulation",)
    assert plan.peak_bytes == 15 * GB  # text and denoiser stay; decoding needs the most beside them


def test_the_largest_goes_when_the_others_cannot_stay_beside_it() -> None:
    plan = plan_memory(NEEDS, 11 * GB, context=0)
    assert plan.peak_bytes <= 11 * GB
    assert "text" in plan.swapped or "denoiser" in plan.swapped


@pytest.mark.parametrize("budget", range(10, 19))
def test_no_other_choice_keeps_more(budget: int) -> None:
    plan = plan_memory(NEEDS, budget * GB, context=0)
    best = 0
    for kept in itertools.chain.from_iterable(itertools.combinations(NEEDS, count) for count in range(5)):
        peak = sum(need.weights for need in kept) + max(
            need.activations + (0 if need in kept else need.weights) for need in NEEDS
        )
        if peak <= budget * GB:
            best = max(best, sum(need.weights for need in kept))
    assert sum(need.weights for need in NEEDS if need.graph in plan.resident) == best


def test_a_graph_that_does_not_fit_alone_is_refused_with_its_size() -> None:
    with pytest.raises(RequestError, match=r"text alone needs 10\.0 GB") as refused:
        plan_memory(NEEDS, 9 * GB, context=0)
    assert "recipe" in refused.value.mend


def test_what_the_library_takes_counts() -> None:
    assert plan_memory(NEEDS, 18 * GB, context=GB).peak_bytes == 18 * GB
    with pytest.raises(RequestError):
        plan_memory(NEEDS, 10 * GB, context=1)


@pytest.mark.parametrize(
    ("text", "found"),
    [("8GB", 8 * GB), ("8g", 8 * GB), ("7.5 GB", 7_500_000_000), ("6GiB", 6 * 2**30), ("512MB", 512 * 10**6)],
)
def test_amounts_are_read(text: str, found: int) -> None:
    assert parse_memory(text) == found


@pytest.mark.parametrize("text", ["", "much", "8TB", "-8GB", "0GB", "GB", "8 GB of it"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="is no amount"):
        parse_memory(text)
