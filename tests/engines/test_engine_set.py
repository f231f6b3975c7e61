"""The engine set: what can share an engine, what needs its own, and what is refused with its nearest possible."""

from __future__ import annotations

import msgspec
import pytest

from unipic2_edge.engines.engine_set import (
    Options,
    check_precision,
    check_target,
    engine_set,
    nearest_precision,
    sharing,
)
from unipic2_edge.engines.prediction import predict
from unipic2_edge.engines.sizes import default_sizes
from unipic2_edge.engines.targets import TARGETS, find_target, targets_of
from unipic2_edge.runtime.bundle import Bundle, write_manifest
from unipic2_edge.runtime.errors import RequestError

PRECISIONS = ("float32", "float16", "bfloat16", "int8", "fp8", "int4", "nvfp4")
#: (target, backend) → what runs; everything else must be refused. Measured where a compiler is at hand.
RUNS = {
    ("cpu", "onnxruntime"): {"float32", "int8", "int4", "fp8"},
    ("cpu", "openvino"): {"float32", "float16", "bfloat16", "int8", "int4"},
    ("rtx-20", "tensorrt_rtx"): {"float16", "int8"},
    ("rtx-30", "tensorrt_rtx"): {"float32", "float16", "bfloat16", "int8", "int4"},
    ("a100", "tensorrt_rtx"): {"float32", "float16", "bfloat16", "int8", "int4"},
    ("rtx-40", "tensorrt_rtx"): {"float32", "float16", "bfloat16", "int8", "int4", "fp8"},
    ("rtx-50", "tensorrt_rtx"): set(PRECISIONS),
    ("jetson-orin", "tensorrt"): {"float32", "float16", "bfloat16", "int8", "int4"},
    ("jetson-thor", "tensorrt"): set(PRECISIONS),
    ("dgx-spark", "tensorrt"): set(PRECISIONS),
    ("h100", "tensorrt"): {"float32", "float16", "bfloat16", "int8", "int4", "fp8"},
}
MATRIX = [(*where, precision) for where in RUNS for precision in PRECISIONS]  # 77 cases


@pytest.mark.parametrize(("target", "backend", "precision"), MATRIX)
def test_every_pair_runs_or_is_refused_with_the_nearest_that_does(target: str, backend: str, precision: str) -> None:
    refused = check_precision(precision, find_target(target), backend)
    if precision in RUNS[target, backend]:
        assert refused is None
        return
    assert refused is not None
    assert precision in refused.problem
    assert target in refused.problem
    assert refused.exit_code == 2
    recipe = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
    nearest = nearest_precision(precision, find_target(target).precisions_of(backend))
    assert nearest in RUNS[target, backend]
    assert f"--recipe {recipe.get(nearest, nearest)}," in refused.mend


@pytest.mark.parametrize(
    ("target", "precision", "nearest"),
    [
        ("rtx-30", "fp8", "int8"),
        ("rtx-20", "bfloat16", "float16"),
        ("rtx-20", "int4", "int8"),
        ("rtx-40", "nvfp4", "int4"),
        ("rtx-30", "nvfp4", "int4"),
        ("rtx-20", "float32", "float16"),
        ("cpu", "nvfp4", "int4"),
    ],
)
def test_the_nearest_possible_precision(target: str, precision: str, nearest: str) -> None:
    assert nearest_precision(precision, find_target(target).precisions) == nearest


def _options(bundle: Bundle, **changes: object) -> Options:
    return Options(sizes=default_sizes(bundle.manifest), **changes)  # type: ignore[arg-type]


def _in(bundle: Bundle, precision: str) -> Bundle:
    components = {
        name: msgspec.structs.replace(component, precision=precision)
        for name, component in bundle.manifest.components.items()
    }
    write_manifest(bundle.folder, msgspec.structs.replace(bundle.manifest, components=components))
    return Bundle(bundle.folder)


def test_turing_is_alone_and_newer_cards_share(bundle: Bundle) -> None:
    groups = sharing(targets_of("rtx-20,rtx-30,a100,rtx-40,rtx-50,cpu"), _options(bundle))
    names = [[target.name for target in group] for group in groups]
    assert names == [["rtx-20"], ["rtx-30", "a100", "rtx-40", "rtx-50"], ["cpu"]]


def test_one_engine_a_graph_serves_all_that_share(bundle: Bundle) -> None:
    jobs = engine_set(_in(bundle, "float16"), targets_of("rtx-50,rtx-30,rtx-20,rtx-40"), _options(bundle))
    assert len(jobs) == 4
    shared, alone = (job for job in jobs if job.spec.graph == "line")
    assert (shared.targets, shared.spec.capabilities) == (("rtx-50", "rtx-30", "rtx-40"), ("8.6", "8.9", "12.0"))
    assert (alone.targets, alone.spec.capabilities) == (("rtx-20",), ("7.5",))


def test_processors_engines_run_anywhere_and_have_no_limits(bundle: Bundle) -> None:
    spec = engine_set(bundle, targets_of("cpu"), _options(bundle))[0].spec
    assert (spec.platform, spec.profile, spec.capabilities) == ("any", {}, ())


@pytest.mark.parametrize(
    "change",
    [
        {"sizes": "smaller"},
        {"weight_streaming": True},
        {"platform": "windows-x86_64"},
    ],
)
def test_what_an_engine_depends_on_is_in_its_key(bundle: Bundle, change: dict[str, object]) -> None:
    from dataclasses import replace

    options = _options(bundle)
    if "sizes" in change:
        change = {"sizes": replace(options.sizes, largest=(16, 16), likely=(16, 16))}
    keys = {
        engine_set(bundle, targets_of("rtx-40"), used)[1].spec.key
        for used in (options, replace(options, **change))  # type: ignore[arg-type]
    }
    assert len(keys) == 2


def test_the_order_of_targets_is_not_in_the_key(bundle: Bundle) -> None:
    first, second = (
        engine_set(bundle, targets_of(names), _options(bundle))[0].spec for names in ("rtx-30,rtx-50", "rtx-50,rtx-30")
    )
    assert first.key == second.key


@pytest.mark.parametrize("target", ["jetson-orin", "jetson-thor", "dgx-spark"])
def test_what_is_compiled_on_the_device_alone_says_so(bundle: Bundle, target: str) -> None:
    for platform in (None, "linux-aarch64"):
        with pytest.raises(RequestError) as refused:
            check_target(bundle, find_target(target), _options(bundle, platform=platform))
        assert "on linux-aarch64 alone" in refused.value.problem
        assert f"--target {target}" in refused.value.mend


def test_windows_plans_are_compiled_on_linux(bundle: Bundle) -> None:
    check_target(bundle, find_target("rtx-40"), _options(bundle, platform="windows-x86_64"))
    with pytest.raises(RequestError, match="does not run on windows"):
        check_target(bundle, find_target("a100"), _options(bundle, platform="windows-x86_64"))


def test_predictions_grow_with_the_sizes(bundle: Bundle) -> None:
    for target in ("rtx-40", "cpu"):
        for job in engine_set(bundle, targets_of(target), _options(bundle)):
            prediction = predict(bundle, job)
            assert prediction.engine_bytes > 0
            assert (prediction.weights_bytes is None) == (target == "cpu")
    assert all(target.precisions for target in TARGETS.values())
