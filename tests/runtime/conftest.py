"""A whole bundle made by hand: seven one-line graphs with shared external weights, small enough to follow in numpy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from safetensors.numpy import save
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

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
    TextConditioning,
    TokenizerEntry,
    write_manifest,
)
from unipic2_edge.runtime.files import sha256_of

Weights = dict[str, dict[str, NDArray[np.float32]]]

CHANNELS, FACTOR, PATCH = 2, 4, 2
VALUES = CHANNELS * PATCH * PATCH  # of one patch
DIM, JOINT, POOLED, MAX = 8, 12, 7, 6
CLIP_LENGTH, T5_LENGTH = 6, 5
WORDS = ["a", "red", "blue", "circle", "square", "make", "the", "and", "on", "white", "!"]
VOCABULARY = {word: index for index, word in enumerate(["<pad>", "<bos>", "<eos>", "<unk>", *WORDS])}
SCHEDULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}


def _weights() -> Weights:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(shape[0]))

    return {
        "text_encoder": {"table": draw(len(VOCABULARY), 4)},
        "text_encoder_2": {"table": draw(len(VOCABULARY), 3)},
        "text_encoder_3": {"table": draw(len(VOCABULARY), JOINT)},
        "denoiser": {
            "from_pooled": draw(POOLED, DIM),
            "from_context": draw(JOINT, DIM),
            "from_patch": draw(VALUES, DIM),
            "to_patch": draw(DIM, VALUES),
        },
        "vae": {"encode": draw(CHANNELS, 3, FACTOR, FACTOR), "decode": draw(CHANNELS, 3, FACTOR, FACTOR)},
    }


#: Graph → (component, inputs, outputs, nodes as (op, inputs, outputs, attributes)).
_TEXT = [
    ("Gather", ["table", "input_ids"], ["hidden"], {}),
    ("ReduceMean", ["hidden", "=1"], ["pooled"], {"keepdims": 0}),
]
GRAPHS: dict[str, tuple[str, dict[str, tuple], dict[str, tuple], list[tuple]]] = {
    "text_encoder": ("text_encoder", {"input_ids": ("batch", CLIP_LENGTH)},
                     {"hidden": ("batch", CLIP_LENGTH, 4), "pooled": ("batch", 4)}, _TEXT),
    "text_encoder_2": ("text_encoder_2", {"input_ids": ("batch", CLIP_LENGTH)},
                       {"hidden": ("batch", CLIP_LENGTH, 3), "pooled": ("batch", 3)}, _TEXT),
    "text_encoder_3": ("text_encoder_3", {"input_ids": ("batch", T5_LENGTH)},
                       {"hidden": ("batch", T5_LENGTH, JOINT)}, _TEXT[:1]),
    "modulation": (
        "denoiser",
        {"timestep": ("steps",), "pooled": ("batch", POOLED), "context": ("batch", "context", JOINT)},
        {"modulation": ("steps", "batch", DIM), "embedded_context": ("batch", "context", DIM)},
        [
            ("Mul", ["timestep", "=0.001"], ["time"], {}),
            ("Unsqueeze", ["time", "=1,2"], ["times"], {}),
            ("MatMul", ["pooled", "from_pooled"], ["vector"], {}),
            ("Add", ["times", "vector"], ["modulation"], {}),
            ("MatMul", ["context", "from_context"], ["embedded_context"], {}),
        ],
    ),
    "denoiser": (
        "denoiser",
        {"patches": ("batch", "tokens", VALUES), "positions": ("tokens", DIM),
         "context": ("batch", "context", DIM), "modulation": ("batch", DIM)},
        {"velocity": ("batch", "tokens", VALUES)},
        [
            ("MatMul", ["patches", "from_patch"], ["embedded"], {}),
            ("Add", ["embedded", "positions"], ["tokens"], {}),
            ("ReduceMean", ["tokens", "=1"], ["seen"], {}),  # every token sees every other one
            ("ReduceMean", ["context", "=1"], ["text"], {}),
            ("Unsqueeze", ["modulation", "=1"], ["modulated"], {}),
            ("Sum", ["tokens", "seen", "text", "modulated"], ["sum"], {}),
            ("Tanh", ["sum"], ["bent"], {}),
            ("MatMul", ["bent", "to_patch"], ["velocity"], {}),
        ],
    ),
    "vae_encoder": (
        "vae",
        {"image": ("batch", 3, "height", "width")},
        {"mean": ("batch", CHANNELS, "h", "w"), "logvar": ("batch", CHANNELS, "h", "w")},
        [
            ("Conv", ["image", "encode"], ["mean"], {"strides": [FACTOR, FACTOR]}),
            ("Sub", ["mean", "=4.0"], ["logvar"], {}),
        ],
    ),
    "vae_decoder": (
        "vae",
        {"latents": ("batch", CHANNELS, "h", "w")},
        {"image": ("batch", 3, "height", "width")},
        [("ConvTranspose", ["latents", "decode"], ["image"], {"strides": [FACTOR, FACTOR]})],
    ),
}  # fmt: skip


def _external(name: str, component: str, header: dict, start: int, array: NDArray[np.float32]) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=array.shape, data_location=TensorProto.EXTERNAL)
    begin, end = header[name]["data_offsets"]
    place = {"location": f"{component}.safetensors", "offset": start + begin, "length": end - begin}
    for key, value in place.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _constant(text: str) -> TensorProto:
    """`=0.001` a float, `=1,2` axes."""
    if "." in text:
        return helper.make_tensor(text, TensorProto.FLOAT, [], [float(text[1:])])
    axes = [int(axis) for axis in text[1:].split(",")]
    return helper.make_tensor(text, TensorProto.INT64, [len(axes)], axes)


def _dtype(name: str) -> int:
    return TensorProto.INT64 if name == "input_ids" else TensorProto.FLOAT


def _model(name: str, weights: Weights, safetensors: bytes) -> bytes:
    component, inputs, outputs, nodes = GRAPHS[name]
    size = int.from_bytes(safetensors[:8], "little")
    header, start = json.loads(safetensors[8 : 8 + size]), 8 + size
    used = {value for _, values, _, _ in nodes for value in values}
    initializers = [
        _external(key, component, header, start, array) for key, array in weights[component].items() if key in used
    ]
    initializers += [_constant(value) for value in sorted(used) if value.startswith("=")]
    graph = helper.make_graph(
        [helper.make_node(op, given, made, **attributes) for op, given, made, attributes in nodes],
        name,
        [helper.make_tensor_value_info(key, _dtype(key), shape) for key, shape in inputs.items()],
        [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in outputs.items()],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return bytes(model.SerializeToString())


def _specs(tensors: dict[str, tuple]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=key, dtype="int64" if key == "input_ids" else "float32", shape=shape)
        for key, shape in tensors.items()
    )


def write_tokenizer(path: Path, template: str) -> None:
    """A word-level tokenizer.json whose post-processor adds the special tokens of `template`."""
    tokenizer = Tokenizer(WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(["<pad>", "<bos>", "<eos>"])
    tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=[("<bos>", 1), ("<eos>", 2)])
    tokenizer.save(str(path))


def _write_files(folder: Path, weights: Weights) -> None:
    for part in ("graphs", "weights", "host"):
        (folder / part).mkdir(parents=True)
    for component, arrays in weights.items():
        data = save(arrays)
        (folder / f"weights/{component}.safetensors").write_bytes(data)
        for name in (name for name, spec in GRAPHS.items() if spec[0] == component):
            (folder / f"graphs/{name}.onnx").write_bytes(_model(name, weights, data))
    rng = np.random.default_rng(1)
    tables = {axis: rng.standard_normal((MAX, DIM // 2), dtype=np.float32) for axis in "xy"}
    (folder / "host/positions.safetensors").write_bytes(save(tables))
    (folder / "host/scheduler.json").write_text(json.dumps(SCHEDULER))
    write_tokenizer(folder / "host/clip.json", "<bos> $A <eos>")
    write_tokenizer(folder / "host/t5.json", "$A <eos>")


def make_manifest(folder: Path) -> Manifest:
    """The manifest of the files that stand in `folder`."""
    files = {
        path.relative_to(folder).as_posix(): FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "bundle.json"
    }
    clip = TokenizerEntry(file="host/clip.json", length=CLIP_LENGTH, pad_id=0)
    t5 = TokenizerEntry(file="host/t5.json", length=T5_LENGTH, pad_id=0)
    return Manifest(
        format_version=FORMAT_VERSION,
        name="small",
        variant="kontext",
        source=Source(name="small", sha256="0" * 64),
        recipe="fp32",
        components={
            name: Component(precision="float32", weights=f"weights/{name}.safetensors", parameters=1)
            for name in ("text_encoder", "text_encoder_2", "text_encoder_3", "denoiser", "vae")
        },
        graphs={
            name: Graph(file=f"graphs/{name}.onnx", component=spec[0], inputs=_specs(spec[1]), outputs=_specs(spec[2]))
            for name, spec in GRAPHS.items()
        },
        latents=Latents(channels=CHANNELS, factor=FACTOR, patch_size=PATCH, scaling_factor=1.5, shift_factor=0.1),
        positions=Positions(file="host/positions.safetensors", kind="separable", max_size=MAX, dim=DIM),
        scheduler="host/scheduler.json",
        text=TextConditioning(
            tokenizers={"text_encoder": clip, "text_encoder_2": clip, "text_encoder_3": t5},
            context_dim=JOINT,
            pooled_dim=POOLED,
        ),
        defaults={
            "generate": TaskDefaults(height=32, width=32, num_inference_steps=4, guidance_scale=3.5),
            "edit": TaskDefaults(
                height=32, width=32, num_inference_steps=4, guidance_scale=3.5, negative_prompt="white"
            ),
        },
        files=files,
        tools={},
    )


@pytest.fixture(scope="session")
def weights() -> Weights:
    """The weights of the hand-made bundle, by component."""
    return _weights()


@pytest.fixture(scope="session")
def _written(tmp_path_factory: pytest.TempPathFactory, weights: Weights) -> Path:
    folder = tmp_path_factory.mktemp("small") / "bundle"
    _write_files(folder, weights)
    write_manifest(folder, make_manifest(folder))
    return folder


@pytest.fixture
def folder(_written: Path, tmp_path: Path) -> Path:
    """A fresh copy of the hand-made bundle, to be read or damaged."""
    return Path(shutil.copytree(_written, tmp_path / "bundle"))


@pytest.fixture
def bundle(folder: Path) -> Bundle:
    """The hand-made bundle, opened."""
    return Bundle(folder)
