"""Graphs from stages: equal stages are traced once, each with its own weights, and the whole computes the sum."""

from __future__ import annotations

import copy
import dataclasses
import gc
import weakref
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from unipic2_edge.export import assembly
from unipic2_edge.export.assembly import assemble, weights_of, write_graph
from unipic2_edge.export.graph_specs import GraphSpec, Stage
from unipic2_edge.export.weights import write_weights
from unipic2_edge.runtime.bundle import TensorSpec

WIDTH = 24


class Step(nn.Module):
    """tokens [B, N, 24] → tokens; with a second linear it is of another kind."""

    def __init__(self, deep: bool) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.second = nn.Linear(WIDTH, WIDTH) if deep else None

    def forward(self, tokens: Tensor) -> Tensor:
        made = torch.tanh(self.first(tokens)) * 1.5
        return tokens + (made if self.second is None else self.second(made))


@pytest.fixture
def steps() -> list[Step]:
    torch.manual_seed(0)
    return [Step(deep) for deep in (True, False, True, False, False)]


@pytest.fixture
def spec(steps: list[Step]) -> GraphSpec:
    tokens, velocity = (
        TensorSpec(name=name, dtype="float32", shape=("batch", "tokens", WIDTH)) for name in ("tokens", "velocity")
    )
    stages = [Stage(f"steps.{index}", step, (tokens,), (tokens,)) for index, step in enumerate(steps)]
    stages[-1] = Stage(stages[-1].path, stages[-1].module, (tokens,), (velocity,))
    return GraphSpec("chain", "denoiser", tuple(stages), (tokens,), (velocity,))


def test_equal_stages_are_traced_once(spec: GraphSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[str] = []

    def counted(stage: Stage, opset: int) -> assembly.Template:
        traced.append(stage.path)
        return trace(stage, opset)

    trace = assembly.trace
    monkeypatch.setattr(assembly, "trace", counted)
    assemble(spec)
    assert traced == ["steps.0", "steps.1"]


@pytest.mark.parametrize("shape", [(2, 24), (1, 1), (3, 7)])
def test_the_graph_computes_what_the_modules_do(
    spec: GraphSpec, steps: list[Step], tmp_path: Path, shape: tuple[int, int]
) -> None:
    _write(tmp_path, assemble(spec))
    session = onnxruntime.InferenceSession(tmp_path / "chain.onnx", providers=["CPUExecutionProvider"])
    tokens = torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(1))
    expected = tokens
    with torch.no_grad():
        for step in steps:
            expected = step(expected)
    (made,) = session.run(["velocity"], {"tokens": tokens.numpy()})
    assert np.allclose(made, expected.numpy(), atol=1e-5)


def test_weights_are_named_after_their_modules_and_transposed_ones_say_so(spec: GraphSpec, steps: list[Step]) -> None:
    weights = weights_of(assemble(spec))
    names = [f"chain.steps.{index}.first.weight.transposed" for index in range(5)]
    names += [f"chain.steps.{index}.second.weight.transposed" for index in (0, 2)]
    assert set(weights) == set(names)  # biases are too small for the weights file
    for index, step in enumerate(steps):
        stored = weights[f"chain.steps.{index}.first.weight.transposed"].numpy()
        assert np.array_equal(stored, step.first.weight.detach().numpy().T)


def test_weights_are_read_only_when_they_are_written(spec: GraphSpec, steps: list[Step], tmp_path: Path) -> None:
    """Stages without memory give the same files as stages in memory, and each portion is read once, alone."""
    alive: list[weakref.ref[nn.Module]] = []
    read: list[int] = []

    def load(index: int) -> nn.Module:
        gc.collect()
        assert not any(module() for module in alive)  # the portion before is gone
        read.append(index)
        module = copy.deepcopy(steps[index])
        alive.append(weakref.ref(module))
        return module

    bare = tuple(
        dataclasses.replace(stage, module=copy.deepcopy(stage.module).to("meta"), loads={"": partial(load, index)})
        for index, stage in enumerate(spec.stages)
    )
    model = assemble(dataclasses.replace(spec, stages=bare))
    assert read == []
    _write(tmp_path / "bare", model)
    assert read == [0, 1, 2, 3, 4]
    _write(tmp_path / "whole", assemble(spec))
    for name in ("chain.onnx", "denoiser.safetensors"):
        assert (tmp_path / "bare" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_half_graph_speaks_float32(spec: GraphSpec, dtype: str, tmp_path: Path) -> None:
    """The borders are cast, once each; what is between is in the stages' own type."""
    stages = tuple(
        dataclasses.replace(
            stage,
            module=copy.deepcopy(stage.module).to(getattr(torch, dtype)),
            inputs=tuple(msgspec.structs.replace(tensor, dtype=dtype) for tensor in stage.inputs),
            outputs=tuple(msgspec.structs.replace(tensor, dtype=dtype) for tensor in stage.outputs),
        )
        for stage in spec.stages
    )
    model = assemble(dataclasses.replace(spec, stages=stages))
    half = ir.DataType[dtype.upper()]
    assert [value.dtype for value in (*model.graph.inputs, *model.graph.outputs)] == [ir.DataType.FLOAT] * 2
    assert [value.name for value in model.graph.outputs] == ["velocity"]
    casts = [node.attributes["to"].as_int() for node in model.graph if node.op_type == "Cast"]
    assert casts == [half, ir.DataType.FLOAT]
    assert {node.outputs[0].dtype for node in model.graph if node.op_type == "MatMul"} == {half}
    assert {tensor.dtype for tensor in weights_of(model).values()} == {half}
    _write(tmp_path, model)
    onnx.checker.check_model(tmp_path / "chain.onnx")


def _write(folder: Path, model: ir.Model) -> None:
    folder.mkdir(exist_ok=True)
    written = write_weights(folder / "denoiser.safetensors", weights_of(model))
    write_graph(folder / "chain.onnx", model, "denoiser.safetensors", written.places)


def test_dimensions_keep_their_names(spec: GraphSpec) -> None:
    graph = assemble(spec).graph
    for value in (*graph.inputs, *graph.outputs):
        assert value.shape is not None
        assert [str(side) for side in value.shape] == ["batch", "tokens", str(WIDTH)]
