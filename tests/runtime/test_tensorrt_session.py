"""The TensorRT adapter on a GPU that is not there: whole pictures, every copy checked, every failure explained."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.device import find_gpus
from unipic2_edge.runtime.engine import (
    STORE,
    CompiledFrom,
    read_engine,
    stored_engines,
)
from unipic2_edge.runtime.errors import (
    BundleError,
    MissingDependencyError,
    RequestError,
    UserError,
    WorkError,
)
from unipic2_edge.runtime.opening import open_session
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.runtime.placement import place
from unipic2_edge.runtime.validity import explain

from .fake_card import Gpu, install
from .fake_gpu import FakeCuda, fake_tensorrt

try:  # before any test puts the fake in its place
    from cuda.bindings import runtime as REAL_CUDA
except ImportError:
    REAL_CUDA = None


@pytest.fixture(params=["tensorrt_rtx", "tensorrt"])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """A machine with one card and one of the two libraries."""
    yield install(monkeypatch, rtx=request.param == "tensorrt_rtx")


def test_a_picture_is_the_same_as_the_processors(bundle: Bundle, gpu: Gpu) -> None:
    expected = Pipeline.load(bundle.folder, device="cpu").generate("a red circle", seed=3, num_images=2)
    gpu.build(bundle)
    pipeline = Pipeline.load(bundle.folder)
    made = pipeline.generate("a red circle", seed=3, num_images=2)
    np.testing.assert_array_equal(made.latents, expected.latents)
    assert [np.asarray(image).tolist() for image in made.images] == [
        np.asarray(image).tolist() for image in expected.images
    ]
    assert pipeline.explain()[0].startswith("a card")
    assert any("denoiser: float32" in line and "holds code for 8.9" in line for line in pipeline.explain())


def test_an_edit_is_the_same_as_the_processors(bundle: Bundle, gpu: Gpu) -> None:
    source = Pipeline.load(bundle.folder, device="cpu").generate("a red circle", seed=3).images[0]
    expected = Pipeline.load(bundle.folder, device="cpu").edit(
        source, "make the circle blue", seed=1, height=16, width=16
    )
    gpu.build(bundle)
    made = Pipeline.load(bundle.folder, device="gpu").edit(source, "make the circle blue", seed=1, height=16, width=16)
    np.testing.assert_array_equal(made.latents, expected.latents)


def test_more_pictures_than_the_engine_takes_run_in_turns(bundle: Bundle, gpu: Gpu) -> None:
    expected = Pipeline.load(bundle.folder, device="cpu").generate("a red circle", seed=3, num_images=5)
    gpu.build(bundle)
    made = Pipeline.load(bundle.folder).generate("a red circle", seed=3, num_images=5)
    np.testing.assert_allclose(made.latents, expected.latents, rtol=1e-5, atol=1e-6)


def test_buffers_are_made_once_for_a_shape_and_all_memory_comes_back(bundle: Bundle, gpu: Gpu) -> None:
    gpu.build(bundle)
    pipeline = Pipeline.load(bundle.folder)
    pipeline.generate("a red circle", seed=3, num_inference_steps=3)
    first = gpu.cuda.calls.count("cudaMalloc")
    pipeline.generate("a red circle", seed=4, num_inference_steps=3)
    assert gpu.cuda.calls.count("cudaMalloc") == first
    pipeline.generate("a red circle", seed=4, height=24, width=24, num_inference_steps=3)
    assert gpu.cuda.calls.count("cudaMalloc") > first
    pipeline.close()
    assert len(gpu.cuda.memory) <= 1  # the arena stays for the next call


def test_what_does_not_change_is_uploaded_once(bundle: Bundle, gpu: Gpu) -> None:
    gpu.build(bundle)
    session = open_session(bundle, "denoiser", "gpu")
    rng = np.random.default_rng(0)
    shapes = {"patches": (2, 6, 8), "positions": (6, 8), "context": (2, 5, 8), "modulation": (2, 8)}
    inputs = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    inputs["positions"].flags.writeable = False
    first = session.run(inputs)["velocity"]
    before = gpu.cuda.calls.count("cudaMemcpyAsync")
    inputs["patches"] += 1  # changed in place: must be seen
    second = session.run(inputs)["velocity"]
    assert gpu.cuda.calls.count("cudaMemcpyAsync") - before == 4  # three inputs up, one output down
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(second, open_session(bundle, "denoiser", "cpu").run(inputs)["velocity"])


def test_nothing_is_under_way_when_a_run_returns(bundle: Bundle, gpu: Gpu) -> None:
    gpu.build(bundle)
    session = open_session(bundle, "vae_decoder", "gpu")
    for _ in range(3):  # the last one replays what the first recorded
        gpu.cuda.calls.clear()
        session.run({"latents": np.zeros((1, 2, 4, 4), np.float32)})
        assert gpu.cuda.calls[-2:] == ["cudaMemcpyAsync", "cudaStreamSynchronize"]  # so a clock may be read now


def test_shapes_that_repeat_are_replayed(bundle: Bundle, gpu: Gpu) -> None:
    gpu.build(bundle)
    Pipeline.load(bundle.folder).generate("a red circle", seed=3, num_inference_steps=5)
    if gpu.library.__name__ == "tensorrt":
        assert gpu.cuda.calls.count("cudaGraphLaunch") >= 4
    else:
        assert all(context.configured.cuda_graph_strategy == 1 for context in gpu.library.contexts)
        assert "cudaGraphLaunch" not in gpu.cuda.calls
    strategies = {getattr(context.configured, "strategy", context.configured) for context in gpu.library.contexts}
    assert strategies == {2}  # activations are ours to place


def test_one_arena_serves_all_graphs(bundle: Bundle, gpu: Gpu) -> None:
    gpu.build(bundle)
    Pipeline.load(bundle.folder).generate("a red circle", seed=3)
    largest = max(context.update_device_memory_size_for_shapes() for context in gpu.library.contexts)
    assert max(context.device_memory[1] for context in gpu.library.contexts) == largest


def test_graphs_that_do_not_fit_beside_each_other_take_turns(bundle: Bundle, gpu: Gpu) -> None:
    gpu.build(bundle)
    everything = 400_000_000 + 7 * 1000 + 10
    expected = Pipeline.load(bundle.folder, device="cpu").generate("a red circle", seed=3)
    for budget in (everything, everything - 1, 400_000_000 + 1010):
        pipeline = Pipeline.load(bundle.folder, memory=budget)
        for _ in range(2):
            np.testing.assert_array_equal(pipeline.generate("a red circle", seed=3).latents, expected.latents)
    with pytest.raises(RequestError, match=r"alone needs 0\.4 GB"):
        Pipeline.load(bundle.folder, memory=400_000_000 + 1009)


def test_compiled_kernels_are_kept_beside_the_engine(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = install(monkeypatch)
    gpu.build(bundle)
    Pipeline.load(bundle.folder).generate("a red circle", seed=3)
    kept = sorted((bundle.folder / STORE).glob("*.cache"))
    assert len(kept) >= 5
    Pipeline.load(bundle.folder).generate("a red circle", seed=3)
    assert gpu.library.contexts[-1].configured.cache.content.startswith(b"kernels")
    kept[0].write_bytes(b"of another card")
    Pipeline.load(bundle.folder).generate("a red circle", seed=3)
    assert kept[0].read_bytes().startswith(b"kernels")


def test_a_bundle_that_cannot_be_written_to_is_served(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = install(monkeypatch)
    gpu.build(bundle)

    def refuse(path: Path, data: bytes) -> None:
        raise WorkError("no space left on the disk")

    monkeypatch.setattr("unipic2_edge.runtime.kernel_cache.write_bytes", refuse)
    assert Pipeline.load(bundle.folder).generate("a red circle", seed=3).images


def test_a_shape_outside_the_profile_names_the_range_and_the_command(bundle: Bundle, gpu: Gpu) -> None:
    gpu.build(bundle)
    with pytest.raises(RequestError, match=r"from \[1, 1, 8\] to \[4, 72, 8\], not \[2, 100, 8\]") as refused:
        open_session(bundle, "denoiser", "gpu").run(
            {
                "patches": np.zeros((2, 100, 8), np.float32),
                "positions": np.zeros((100, 8), np.float32),
                "context": np.zeros((2, 5, 8), np.float32),
                "modulation": np.zeros((2, 8), np.float32),
            }
        )
    assert "unipic2-edge build" in refused.value.mend


def test_a_damaged_plan_is_not_opened(bundle: Bundle, gpu: Gpu) -> None:
    gpu.build(bundle)
    engine = next(engine for engine in stored_engines(bundle) if engine.spec.graph == "denoiser")
    path = bundle.folder / STORE / engine.file
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(BundleError, match="SHA-256"):
        open_session(bundle, "denoiser", "gpu")
    assert "deserialize" not in gpu.library.log


def test_a_plan_the_library_does_not_open_is_explained(bundle: Bundle, gpu: Gpu) -> None:
    gpu.build(bundle, content=b"broken" + bytes(300))
    with pytest.raises(WorkError, match="the fake does not like it") as failed:
        open_session(bundle, "denoiser", "gpu")
    assert "build" in failed.value.mend


@pytest.mark.parametrize(
    ("flags", "kind", "said", "mend"),
    [
        (1, MissingDependencyError, "another release", "build it again"),
        (2, MissingDependencyError, "no code for this card", "build it for this card"),
        (4, MissingDependencyError, "driver is too old", "update the driver"),
        (8, MissingDependencyError, "CUDA runtime is too old", "pip install --upgrade"),
        (16, WorkError, "too little memory", "--memory"),
        (32, BundleError, "damaged", "build it again"),
        (64, MissingDependencyError, "does not answer", "--device cpu"),
        (0, MissingDependencyError, "does not say why", "doctor"),
        (5, MissingDependencyError, "another release", "build it again"),
    ],
)
def test_the_librarys_own_verdict_is_explained(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, flags: int, kind: type[UserError], said: str, mend: str
) -> None:
    gpu = install(monkeypatch, validity=(2, flags))
    gpu.build(bundle)
    with pytest.raises(kind, match=said) as refused:
        open_session(bundle, "denoiser", "gpu")
    assert mend in refused.value.mend
    assert "deserialize" not in gpu.library.log


@pytest.mark.parametrize(
    ("call", "code", "kind", "mend"),
    [
        ("cudaGetDeviceCount", 35, MissingDependencyError, "update the driver"),
        ("cudaGetDeviceCount", 100, MissingDependencyError, "--device cpu"),
        ("cudaMalloc", 2, WorkError, "smaller"),
        ("cudaMemcpyAsync", 999, WorkError, "doctor"),
        ("cudaStreamSynchronize", 999, WorkError, "doctor"),
    ],
)
def test_what_cuda_says_is_explained(
    bundle: Bundle, gpu: Gpu, call: str, code: int, kind: type[UserError], mend: str
) -> None:
    gpu.build(bundle)
    gpu.cuda.fail[call] = code
    with pytest.raises(kind) as failed:
        Pipeline.load(bundle.folder).generate("a red circle", seed=3)
    assert mend in failed.value.mend


def test_memory_that_runs_out_halfway_is_given_back(bundle: Bundle, gpu: Gpu) -> None:
    gpu.build(bundle)
    gpu.cuda.total = 3000
    with pytest.raises(WorkError, match="memory ran out"):
        Pipeline.load(bundle.folder).generate("a red circle", seed=3)
    gpu.cuda.total = 10**9
    assert Pipeline.load(bundle.folder).generate("a red circle", seed=3).images


def test_a_gpu_whose_engines_do_not_fit_is_passed_over_only_if_allowed(
    bundle: Bundle, gpu: Gpu, caplog: pytest.LogCaptureFixture
) -> None:
    gpu.build(bundle, capabilities=("7.5",))
    with pytest.raises(RequestError, match=r"compute capability 7\.5") as refused:
        Pipeline.load(bundle.folder)
    assert "--fallback" in refused.value.mend
    pipeline = Pipeline.load(bundle.folder, fallback=True)
    assert pipeline.generate("a red circle", seed=3).images
    assert "no engine fits" in pipeline.explain()[0]
    assert "serving on the processor" in caplog.text


def test_a_gpu_without_engines_leaves_the_bundle_to_the_processor(bundle: Bundle, gpu: Gpu) -> None:
    placed = place(bundle)
    assert (placed.device.kind, placed.reason) == ("cpu", "the bundle has no engines for GPUs")
    with pytest.raises(RequestError, match="no engine of"):
        place(bundle, "gpu")


def test_engines_of_older_weights_are_told_from_damage(bundle: Bundle, gpu: Gpu) -> None:
    gpu.build(bundle, compiled_from=CompiledFrom(graph="0" * 64, weights="0" * 64))
    with pytest.raises(RequestError, match="another graph or other weights"):
        place(bundle)


@pytest.mark.parametrize("device", ["gpu:1", "cuda:3"])
def test_a_gpu_that_is_not_there_is_refused(bundle: Bundle, gpu: Gpu, device: str) -> None:
    with pytest.raises(RequestError, match="there is no GPU"):
        place(bundle, device)


def test_onnx_runtimes_cuda_provider_must_be_there(bundle: Bundle, gpu: Gpu) -> None:
    with pytest.raises(MissingDependencyError, match="no CUDA provider") as missing:
        open_session(bundle, "denoiser", "cuda")
    assert 'pip install "unipic2-edge[cuda]"' in missing.value.mend


def test_a_library_that_is_missing_is_named(bundle: Bundle, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.build(bundle)
    monkeypatch.setitem(sys.modules, gpu.library.__name__, None)
    with pytest.raises(MissingDependencyError, match="not installed") as missing:
        Pipeline.load(bundle.folder)
    assert "pip install" in missing.value.mend
    assert "--fallback" in missing.value.mend


def test_the_fake_has_the_real_librarys_names() -> None:
    """What the adapter calls must be there, under the very names, in the library itself."""
    real = pytest.importorskip("tensorrt_rtx")
    for kind, names in {
        "IExecutionContext": (
            "set_input_shape",
            "get_tensor_shape",
            "set_tensor_address",
            "update_device_memory_size_for_shapes",
            "set_device_memory",
            "execute_async_v3",
        ),
        "ICudaEngine": ("create_runtime_config", "create_execution_context"),
        "IRuntimeConfig": (
            "create_runtime_cache",
            "set_runtime_cache",
            "cuda_graph_strategy",
            "set_execution_context_allocation_strategy",
        ),
        "IRuntimeCache": ("serialize", "deserialize"),
        "Runtime": (
            "deserialize_cuda_engine",
            "get_engine_validity",
            "engine_host_code_allowed",
            "engine_header_size",
        ),
    }.items():
        for name in names:
            assert hasattr(getattr(real, kind), name), f"{kind}.{name}"
    fake = fake_tensorrt(FakeCuda())
    assert set(fake.EngineInvalidityDiagnostics.__members__) == set(real.EngineInvalidityDiagnostics.__members__)
    for flag in real.EngineInvalidityDiagnostics.__members__.values():
        assert explain(real, int(flag))[1] != "the library does not say why"
    assert int(real.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE) == 1
    assert int(real.ExecutionContextAllocationStrategy.USER_MANAGED) == 2


def test_the_fake_has_cudas_names() -> None:
    if REAL_CUDA is None:
        pytest.skip("cuda-python is not installed")
    real = REAL_CUDA
    for name, value in inspect.getmembers(FakeCuda, inspect.isfunction):
        if name.startswith("cuda"):
            assert callable(getattr(real, name)), f"{name} of {value}"
    for name in ("cudaErrorMemoryAllocation", "cudaErrorInsufficientDriver", "cudaErrorNoDevice"):
        assert int(getattr(real.cudaError_t, name)) == int(getattr(FakeCuda().cudaError_t, name))


@pytest.mark.gpu
@pytest.mark.skipif(not find_gpus(), reason="no NVIDIA GPU on this machine")
def test_a_real_card_makes_the_processors_picture(tiny_bundle: Path, tmp_path: Path) -> None:
    """The tiny model in fp32, compiled for the card that is here."""
    import shutil

    from unipic2_edge.engines.build import build_targets

    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    build_targets(Bundle(folder), "auto")
    expected = Pipeline.load(folder, device="cpu").generate("a red circle", seed=3)
    pipeline = Pipeline.load(folder, device="gpu")
    made = pipeline.generate("a red circle", seed=3)
    error = np.linalg.norm(made.latents - expected.latents) / np.linalg.norm(expected.latents)
    assert error < 1e-2  # tensor cores may round products to TF32
    again = pipeline.generate("a red circle", seed=3)
    np.testing.assert_array_equal(made.latents, again.latents)
    assert read_engine(Bundle(folder), next(stored_engines(Bundle(folder))).spec.name)
