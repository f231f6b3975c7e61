"""A bundle of two hand-made graphs, small enough to build in milliseconds, with real shared weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import save

from unipic2_edge.engines.build import Built, build_targets
from unipic2_edge.engines.engine_set import Options
from unipic2_edge.engines.sizes import default_sizes
from unipic2_edge.runtime.bundle import (
    FORMAT_VERSION,
    Bundle,
    Component,
    FileEntry,
    Graph,
    Latents,
    Manifest,
    Positions,
    Source,
    TaskDefaults,
    TensorSpec,
    write_manifest,
)
from unipic2_edge.runtime.files import sha256_of

CHANNELS = 16  # wide enough for ONNX Runtime to want its processor-specific convolution layout


def _external(name: str, shape: tuple[int, ...], place: tuple[str, int, int]) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in zip(("location", "offset", "length"), place, strict=True):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _model(nodes: list[onnx.NodeProto], sides: int, weights: list[TensorProto]) -> bytes:
    """A model from `x` to `y` of the same type: [batch, 16] or [batch, 16, height, width]."""
    shape = ["batch", CHANNELS, "height", "width"] if sides == 4 else ["batch", CHANNELS]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph(nodes, "graph", [value[0]], [value[1]], weights)
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()
    )


def _component(folder: Path, component: str, array: np.ndarray, nodes: list[onnx.NodeProto]) -> Graph:
    data = save({f"{component}.w": array})
    (folder / "weights" / f"{component}.safetensors").write_bytes(data)
    start = 8 + int.from_bytes(data[:8], "little")
    weight = _external(f"{component}.w", array.shape, (f"{component}.safetensors", start, array.nbytes))
    file = f"graphs/{component}.onnx"
    (folder / file).write_bytes(_model(nodes, array.ndim, [weight]))
    spec = ("batch", CHANNELS, "height", "width") if array.ndim == 4 else ("batch", CHANNELS)
    tensors = [TensorSpec(name=name, dtype="float32", shape=spec) for name in "xy"]
    return Graph(file=file, component=component, inputs=(tensors[0],), outputs=(tensors[1],))


def write_small_bundle(folder: Path, precision: str = "float32") -> Bundle:
    """Write and open the bundle: `line` (MatMul, an identity chain to optimise away) and `picture` (Conv, Relu)."""
    for name in ("graphs", "weights", "host"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    line = _component(
        folder,
        "line",
        rng.standard_normal((CHANNELS, CHANNELS), dtype=np.float32),
        [
            helper.make_node("Identity", ["x"], ["a"]),
            helper.make_node("MatMul", ["a", "line.w"], ["b"]),
            helper.make_node("Identity", ["b"], ["c"]),
            helper.make_node("Relu", ["c"], ["y"]),
        ],
    )
    picture = _component(
        folder,
        "picture",
        rng.standard_normal((CHANNELS, CHANNELS, 3, 3), dtype=np.float32),
        [
            helper.make_node("Conv", ["x", "picture.w"], ["a"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["a"], ["y"]),
        ],
    )
    (folder / "host" / "scheduler.json").write_text(json.dumps({}))
    (folder / "host" / "positions.safetensors").write_bytes(save({"x": np.zeros((4, 8), np.float32)}))
    files = {
        path.relative_to(folder).as_posix(): FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name="small",
        variant="kontext",
        source=Source(name="small", sha256="0" * 64),
        recipe="fp32",
        components={
            name: Component(precision=precision, weights=f"weights/{name}.safetensors", parameters=1)
            for name in ("line", "picture")
        },
        graphs={"line": line, "picture": picture},
        latents=Latents(channels=CHANNELS, factor=4, patch_size=2, scaling_factor=1.0, shift_factor=0.0),
        positions=Positions(file="host/positions.safetensors", kind="separable", max_size=4, dim=16),
        scheduler="host/scheduler.json",
        text=None,
        defaults={"generate": TaskDefaults(height=32, width=32, num_inference_steps=1, guidance_scale=1.0)},
        files=files,
        tools={},
    )
    write_manifest(folder, manifest)
    return Bundle(folder)


def build_for(
    bundle: Bundle, targets: str, threads: int | None = None, backend: str | None = None, **changes: str
) -> list[Built]:
    """Build for targets with the default sizes, as `unipic2-edge build` does; on processors through one backend."""
    chosen = backend or ("onnxruntime" if targets == "cpu" else None)
    options = Options(sizes=default_sizes(bundle.manifest), threads=threads, backend=chosen, **changes)  # type: ignore[arg-type]
    return build_targets(bundle, targets, options)


def replace_graph(bundle: Bundle, graph: str, model: bytes, weights: bytes | None = None, **component: str) -> Bundle:
    """The bundle with another graph, other weights for it, other words about its component; opened again."""
    files = dict(bundle.manifest.files)
    spec, components = bundle.graph(graph), dict(bundle.manifest.components)
    standing = components[spec.component]
    components[spec.component] = msgspec.structs.replace(standing, **component)
    for relative, data in ((spec.file, model), (standing.weights, weights)):
        if data is not None:
            (bundle.folder / relative).write_bytes(data)
            files[relative] = FileEntry(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    write_manifest(bundle.folder, msgspec.structs.replace(bundle.manifest, files=files, components=components))
    return Bundle(bundle.folder)


def flip(path: Path, position: int) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """The small bundle, not built yet."""
    return write_small_bundle(tmp_path / "bundle")
