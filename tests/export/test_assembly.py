"""Graphs from stages: equal stages are traced once, each with its own weights, and the whole computes the sum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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

    def counted(stage: Stage) -> assembly.Template:
        traced.append(stage.path)
        return trace(stage)

    trace = assembly.trace
    monkeypatch.setattr(assembly, "trace", counted)
    assemble(spec)
    assert traced == ["steps.0", "steps.1"]


@pytest.mark.parametrize("shape", [(2, 24), (1, 1), (3, 7)])
def test_the_graph_computes_what_the_modules_do(
    spec: GraphSpec, steps: list[Step], tmp_path: Path, shape: tuple[int, int]
) -> None:
    model = assemble(spec)
    written = write_weights(tmp_path / "denoiser.safetensors", weights_of(model))
    write_graph(tmp_path / "chain.onnx", model, "denoiser.safetensors", written.places)
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


def test_no_weight_is_copied_while_it_is_traced(spec: GraphSpec, steps: list[Step]) -> None:
    stored = weights_of(assemble(spec))["chain.steps.3.first.weight.transposed"]
    assert stored.raw.data_ptr() == steps[3].first.weight.data_ptr()  # type: ignore[attr-defined]


def test_dimensions_keep_their_names(spec: GraphSpec) -> None:
    graph = assemble(spec).graph
    for value in (*graph.inputs, *graph.outputs):
        assert value.shape is not None
        assert [str(side) for side in value.shape] == ["batch", "tokens", str(WIDTH)]
