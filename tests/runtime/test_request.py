"""A request is refused or completed before anything is opened."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.errors import BundleError, RequestError
from unipic2_edge.runtime.noise import initial_latents, reference_noise
from unipic2_edge.runtime.request import (
    MAX_SEED,
    Options,
    check_latents,
    check_size,
    make_request,
    pick_negative_prompts,
    pick_prompts,
    pick_seeds,
    pick_size,
    task_defaults,
)


def test_what_is_not_said_is_the_bundles(bundle: Bundle) -> None:
    request = make_request(bundle.manifest, "edit", ("make it red",), (32, 24), Options(seed=5))
    assert (request.width, request.height, request.num_inference_steps) == (32, 24, 4)
    assert (request.guidance_scale, request.seeds, request.negative_prompts) == (3.5, (5,), ("white",))
    assert request.guided
    assert request.rows == ("white", "make it red")


def test_what_is_said_counts(bundle: Bundle) -> None:
    options = Options(negative_prompt="", num_inference_steps=9, guidance_scale=1.0, seed=(3, 1))
    request = make_request(bundle.manifest, "generate", ("a", "b"), (32, 32), options)
    assert (request.num_inference_steps, request.seeds, request.negative_prompts) == (9, (3, 1), ("", ""))
    assert not request.guided
    assert request.rows == ("a", "b")


def test_a_task_the_bundle_lacks_is_refused(bundle: Bundle) -> None:
    del bundle.manifest.defaults["edit"]
    with pytest.raises(BundleError, match="cannot edit"):
        task_defaults(bundle.manifest, "edit")


@pytest.mark.parametrize(
    ("size", "nearest", "problem"),
    [
        ((30, 32), "32x32", "multiples of 8"),
        ((33, 21), "32x24", "multiples of 8"),
        ((1, 32), "8x32", "multiples of 8"),
        ((0, 32), "8x32", "multiples of 8"),
        ((-8, 32), "8x32", "multiples of 8"),
        ((56, 32), "48x32", "too large: at most 48"),
        ((9999, 9999), "48x48", "too large"),
    ],
)
def test_a_size_off_the_grid_is_refused_with_the_nearest(size: tuple[int, int], nearest: str, problem: str) -> None:
    with pytest.raises(RequestError, match=problem) as caught:
        check_size(*size, grid=8, largest=48)
    assert caught.value.mend.endswith(nearest)
    width, height = (int(side) for side in nearest.split("x"))
    check_size(width, height, grid=8, largest=48)


def test_prompts_are_one_for_each_picture() -> None:
    assert pick_prompts("a", 2) == ("a", "a")
    assert pick_prompts(["a", "b"], 2) == ("a", "a", "b", "b")
    for prompt in ("", "  \n", [], ["a", ""]):
        with pytest.raises(RequestError, match="prompt is empty"):
            pick_prompts(prompt, 1)
    for count in (0, -1, 1025):
        with pytest.raises(RequestError, match=f"{count} pictures"):
            pick_prompts("a", count)
    with pytest.raises(RequestError, match="2048 pictures are too many"):
        pick_prompts(["a"] * 2, 1024)


def test_negative_prompts_are_one_for_each_picture() -> None:
    assert pick_negative_prompts(None, "white", 2) == ("white", "white")
    assert pick_negative_prompts("", "white", 2) == ("", "")
    assert pick_negative_prompts(["a", ""], "white", 2) == ("a", "")
    with pytest.raises(RequestError, match="3 negative prompts for 2 pictures"):
        pick_negative_prompts(["a"] * 3, "white", 2)


def test_seeds_count_up_and_are_drawn_when_missing() -> None:
    assert pick_seeds(7, 3) == (7, 8, 9)
    assert pick_seeds((4, 4), 2) == (4, 4)
    assert pick_seeds(None, 2) != pick_seeds(None, 2)
    for seed in (-1, MAX_SEED + 1, (1, -1)):
        with pytest.raises(RequestError, match="out of range"):
            pick_seeds(seed, 2 if isinstance(seed, tuple) else 1)
    with pytest.raises(RequestError, match="out of range"):
        pick_seeds(MAX_SEED, 2)
    with pytest.raises(RequestError, match="3 seeds for 2"):
        pick_seeds((1, 2, 3), 2)


def test_whole_numbers_may_be_numpys_and_nothing_else_is_whole(bundle: Bundle) -> None:
    assert pick_seeds(np.int64(7), 2) == (7, 8)  # type: ignore[arg-type]
    assert pick_seeds(np.array([4, 9]), 2) == (4, 9)  # type: ignore[arg-type]
    for seed in (1.5, True, "7", (1, 2.0)):
        with pytest.raises(RequestError, match="not a whole number"):
            pick_seeds(seed, 2)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"num_inference_steps is 2\.5"):
        make_request(bundle.manifest, "generate", ("a",), (32, 32), Options(num_inference_steps=2.5))  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="num_images is True"):
        pick_prompts("a", True)


@pytest.mark.parametrize("guidance", [-1.0, float("nan"), float("inf")])
def test_a_guidance_that_is_none_is_refused(bundle: Bundle, guidance: float) -> None:
    with pytest.raises(RequestError, match="guidance"):
        make_request(bundle.manifest, "generate", ("a",), (32, 32), Options(guidance_scale=guidance))


def test_latents_decide_the_size() -> None:
    latents: Any = np.zeros((1, 2, 6, 8))
    assert pick_size(None, None, latents, 4, (64, 64)) == (32, 24)
    assert pick_size(24, None, latents, 4, (64, 64)) == (32, 24)
    assert pick_size(40, None, None, 4, (64, 48)) == (64, 40)
    assert pick_size(0, 0, None, 4, (64, 48)) == (0, 0)  # to be refused, not replaced
    with pytest.raises(RequestError, match="those of a 32x24 picture"):
        pick_size(32, None, latents, 4, (64, 64))
    with pytest.raises(RequestError, match="shape"):
        pick_size(None, None, latents[0], 4, (64, 64))


def test_latents_are_checked() -> None:
    assert check_latents(np.ones((2, 3, 4, 4)), 2, 3).dtype == np.float32
    for shape in ((1, 3, 4, 4), (2, 4, 4, 4), (3, 4, 4)):
        with pytest.raises(RequestError, match=r"give \[2, 3|the latents have the shape"):
            check_latents(np.ones(shape), 2, 3)
    with pytest.raises(RequestError, match="not finite"):
        check_latents(np.full((2, 3, 4, 4), np.nan), 2, 3)


def test_noise_depends_on_its_own_seed_alone() -> None:
    many = initial_latents((5, 6, 7), (2, 8, 8))
    assert (many.dtype, many.shape) == (np.float32, (3, 2, 8, 8))
    np.testing.assert_array_equal(many[2], initial_latents((7,), (2, 8, 8))[0])
    assert not np.allclose(many[0], many[1])
    large = initial_latents((1,), (16, 64, 64))
    assert abs(large.mean()) < 0.02 and abs(large.std() - 1) < 0.02
    assert abs(np.corrcoef(large.ravel(), reference_noise(1, large.shape).ravel())[0, 1]) < 0.02
