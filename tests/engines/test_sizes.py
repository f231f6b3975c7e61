"""Sizes in a user's words and the optimisation profiles that follow."""

from __future__ import annotations

import msgspec
import pytest

from unipic2_edge.engines.sizes import (
    Sizes,
    default_sizes,
    fixed_sizes,
    limited,
    parse_size,
    profile_of,
    span_sizes,
)
from unipic2_edge.runtime.bundle import (
    Bundle,
    Graph,
    Latents,
    Manifest,
    Positions,
    TaskDefaults,
    TensorSpec,
    TextConditioning,
    TokenizerEntry,
)
from unipic2_edge.runtime.engine import Shapes
from unipic2_edge.runtime.errors import BundleError, RequestError


def _graph(*inputs: tuple[str, tuple[int | str, ...]]) -> Graph:
    specs = tuple(TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in inputs)
    return Graph(file="graphs/x.onnx", component="x", inputs=specs, outputs=())


@pytest.fixture
def full(bundle: Bundle) -> Manifest:
    """A manifest with the geometry and the signatures of the full-size model."""
    tokenizer = {"text_encoder": 77, "text_encoder_2": 77, "text_encoder_3": 256}
    task = TaskDefaults(height=512, width=512, num_inference_steps=28, guidance_scale=3.5)
    return msgspec.structs.replace(
        bundle.manifest,
        latents=Latents(channels=16, factor=8, patch_size=2, scaling_factor=1.5, shift_factor=0.06),
        positions=Positions(file="host/positions.safetensors", kind="separable", max_size=384, dim=1536),
        defaults={"generate": task, "edit": task},
        text=TextConditioning(
            tokenizers={name: TokenizerEntry(file=name, length=length, pad_id=0) for name, length in tokenizer.items()},
            context_dim=4096,
            pooled_dim=2048,
        ),
        graphs={
            "denoiser": _graph(
                ("patches", ("batch", "tokens", 64)),
                ("positions", ("tokens", 1536)),
                ("context", ("batch", "context", 1536)),
            ),
            "modulation": _graph(("timestep", ("steps",)), ("pooled", ("batch", 2048))),
            "vae_decoder": _graph(("latents", ("batch", 16, "h", "w"))),
            "vae_encoder": _graph(("image", ("batch", 3, "height", "width"))),
            "text_encoder": _graph(
                ("input_ids", ("batch", 77)),
            ),
            "still": _graph(("x", (1, 2))),
        },
    )


def test_the_default_is_256_to_1024_pixels_both_tasks_and_two_pictures(full: Manifest) -> None:
    assert default_sizes(full) == Sizes((256, 256), (512, 512), (1024, 1024), ("generate", "edit"), 2)


def test_a_small_models_default_stays_within_its_position_table(bundle: Bundle) -> None:
    assert default_sizes(bundle.manifest) == Sizes((16, 16), (32, 32), (32, 32))


def test_an_edit_has_twice_the_tokens_and_guidance_twice_the_rows(full: Manifest) -> None:
    profile = profile_of(full, "denoiser", default_sizes(full))
    assert profile["patches"] == Shapes(min=(1, 256, 64), opt=(2, 2048, 64), max=(4, 8192, 64))
    assert profile["positions"] == Shapes(min=(256, 1536), opt=(2048, 1536), max=(8192, 1536))
    assert profile["context"] == Shapes(min=(1, 333, 1536), opt=(2, 333, 1536), max=(4, 333, 1536))


def test_every_graph_has_its_own_batch(full: Manifest) -> None:
    sizes = default_sizes(full)
    assert profile_of(full, "vae_decoder", sizes)["latents"] == Shapes(
        min=(1, 16, 32, 32), opt=(1, 16, 64, 64), max=(1, 16, 128, 128)
    )
    assert profile_of(full, "vae_encoder", sizes)["image"].max == (1, 3, 1024, 1024)
    assert profile_of(full, "text_encoder", sizes)["input_ids"] == Shapes(min=(1, 77), opt=(2, 77), max=(4, 77))
    assert profile_of(full, "modulation", sizes)["timestep"] == Shapes(min=(1,), opt=(28,), max=(50,))


def test_a_graph_without_named_dimensions_needs_no_profile(full: Manifest) -> None:
    assert profile_of(full, "still", default_sizes(full)) == {}


def test_one_size_and_one_task_make_a_static_sequence(full: Manifest) -> None:
    sizes = limited(fixed_sizes(full, [(512, 768)]), ("generate",), 1)
    shapes = profile_of(full, "denoiser", sizes)["patches"]
    assert {shapes.min[1], shapes.opt[1], shapes.max[1]} == {32 * 48}
    assert shapes.max[0] == 2
    assert sizes.describe() == "512x768, generate, 1 picture"


def test_edits_alone_start_at_twice_the_tokens(full: Manifest) -> None:
    sizes = limited(fixed_sizes(full, [(512, 512)]), ("edit",), None)
    assert profile_of(full, "denoiser", sizes)["patches"].min[1] == 2 * 1024


def test_several_sizes_span_what_lies_between_them(full: Manifest) -> None:
    sizes = fixed_sizes(full, [(512, 1024), (1024, 512), (768, 768)])
    assert (sizes.smallest, sizes.likely, sizes.largest) == ((512, 512), (768, 768), (1024, 1024))


def test_a_span_keeps_the_likely_size_inside(full: Manifest) -> None:
    assert span_sizes(full, (768, 768), None).likely == (768, 768)
    assert span_sizes(full, None, (320, 320)).likely == (320, 320)
    assert span_sizes(full, None, None) == default_sizes(full)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [([(500, 512)], "500x512 is no size"), ([(512, 8)], "512x8 is no size"), ([(8192, 512)], "8192x512 is no size")],
)
def test_sizes_off_the_grid_are_refused(full: Manifest, wanted: list[tuple[int, int]], said: str) -> None:
    with pytest.raises(RequestError, match=said) as refused:
        fixed_sizes(full, wanted)
    assert "multiples of 16 from 16 to 6144" in refused.value.mend


def test_a_span_upside_down_is_refused(full: Manifest) -> None:
    with pytest.raises(RequestError, match="above the largest"):
        span_sizes(full, (1024, 1024), (512, 512))


@pytest.mark.parametrize(("tasks", "images"), [(("describe",), None), (None, 0), (None, 65)])
def test_unknown_tasks_and_impossible_counts_are_refused(
    full: Manifest, tasks: tuple[str, ...] | None, images: int | None
) -> None:
    with pytest.raises(RequestError):
        limited(default_sizes(full), tasks, images)


def test_a_dimension_of_unknown_meaning_is_refused(full: Manifest) -> None:
    graphs = {"odd": _graph(("x", ("batch", "frames")))}
    with pytest.raises(BundleError, match="frames"):
        profile_of(msgspec.structs.replace(full, graphs=graphs), "odd", default_sizes(full))


@pytest.mark.parametrize("text", ["512", "x", "512x", "ax512", "512x-1", "512x512x3"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="is no size"):
        parse_size(text)


def test_sizes_are_read_in_either_case() -> None:
    assert parse_size("512X768") == (512, 768)
