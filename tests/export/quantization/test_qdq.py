"""Q/DQ in a graph computes what fake quantisation computes, in standard operators, format by format."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import checker
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from unipic2_edge.export.assembly import assemble
from unipic2_edge.export.blocks import AttentionProduct
from unipic2_edge.export.graph_specs import GraphSpec, Stage
from unipic2_edge.export.quantization.calibration import Watcher
from unipic2_edge.export.quantization.fake import AttentionPlan, ComponentPlan
from unipic2_edge.export.quantization.layers import LayerPlan, QuantizedLayer, plan_layers, quantize_layer
from unipic2_edge.export.quantization.qdq import layer_shapes, quantize_graph
from unipic2_edge.export.quantization.scaling import calibrated, unsearched
from unipic2_edge.export.recipes import ComponentRecipe, LayerRule
from unipic2_edge.export.reference import TorchSession
from unipic2_edge.runtime.bundle import TensorSpec

RULES = {
    "int8": LayerRule(layers="*", weights="int8", activations="int8", method="smoothquant"),
    "int8-weight": LayerRule(layers="*", weights="int8"),
    "fp8": LayerRule(layers="*", weights="fp8", activations="fp8"),
    "int4": LayerRule(layers="*", weights="int4", block=32, method="awq"),
    "nvfp4-weight": LayerRule(layers="*", weights="nvfp4"),
    "svdquant": LayerRule(layers="*", weights="int4", block=32, rank=4),
}
#: The largest difference between graph and fake quantisation: sums in another order move a few values over a border.
TOLERANCE = {"int8": 4e-3, "fp8": 2e-2}


class Small(nn.Module):
    """Two layers and an attention between them: tokens [B, N, 64] → [B, N, 32]."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.first, self.second = nn.Linear(64, 192), nn.Linear(64, 32)
        self.attn = nn.Module()
        self.attn.attend = AttentionProduct()
        for parameter in self.parameters():
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = (
            torch.unflatten(part, -1, (2, 32)).transpose(1, 2) for part in self.first(tokens).chunk(3, dim=-1)
        )
        made: Tensor = self.second(self.attn.attend(query, key, value))
        return made


def _tensor(name: str, width: int) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=("batch", "tokens", width))


@pytest.fixture(scope="module")
def spec() -> GraphSpec:
    inputs, outputs = (_tensor("tokens", 64),), (_tensor("made", 32),)
    stage = Stage("block", Small().eval(), inputs, outputs)
    return GraphSpec("small", "small", (stage,), inputs, outputs)


@pytest.fixture(scope="module")
def traced(spec: GraphSpec) -> ir.Model:
    return assemble(spec)


def _rows(width: int, outlier: float = 12.0) -> Tensor:
    """Inputs with a channel that is much larger than the others, as activations have them."""
    rows = torch.randn(96, width, generator=torch.Generator().manual_seed(5))
    rows[:, 3] *= outlier
    return rows


def _plan(spec: GraphSpec, traced: ir.Model, rule: LayerRule) -> ComponentPlan:
    small = spec.stages[0].module
    plans = plan_layers(layer_shapes(traced), ComponentRecipe(rules=(rule,)))
    watcher = Watcher(plans, False, rows=96, calls=1)
    TorchSession(spec, watcher.prepare).run({"tokens": _tokens()})
    watcher.check_finite()
    watcher.check_seen()
    layers: dict[str, LayerPlan] = {}
    for name, plan in plans.items():
        linear = small.get_submodule(name.removeprefix("small.block."))
        weight = linear.weight.detach().T
        layers[name] = calibrated(plan, weight, watcher.layers[name]) if rule.calibrated else plan
    return ComponentPlan(layers, {})


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.calibrated])
def test_a_plan_without_a_search_has_what_a_searched_one_has(name: str) -> None:
    rows, weight = _rows(64), torch.randn(64, 32, generator=torch.Generator().manual_seed(6))
    layer, watcher = nn.Linear(64, 32), Watcher(["one"], False, rows=96, calls=1)
    watcher.prepare("one", layer)
    layer(rows)
    first = LayerPlan("one", RULES[name], torch.float32, 32 if RULES[name].weights == "int4" else None)
    plan = unsearched(first, weight, watcher.layers["one"])
    assert (plan.smoothing is not None) == (RULES[name].method != "max")
    assert (plan.amax is not None) == (RULES[name].activations is not None)
    if plan.amax is not None:  # nothing that was seen is cut off
        seen = rows if plan.inverse is None else rows * plan.inverse
        assert plan.amax == pytest.approx(float(seen.abs().max()))


def _run(model: ir.Model, tokens: np.ndarray) -> np.ndarray:
    proto = ir.to_proto(model)
    checker.check_model(proto)
    made: np.ndarray = ReferenceEvaluator(proto).run(None, {"tokens": tokens})[0]
    return made


def _relative(made: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(made - expected) / np.linalg.norm(expected))


def _tokens() -> np.ndarray:
    return _rows(64).reshape(2, 48, 64).numpy()


@pytest.mark.parametrize("name", RULES)
def test_a_graph_computes_what_fake_quantisation_does(name: str, spec: GraphSpec, traced: ir.Model) -> None:
    plan, model = _plan(spec, traced, RULES[name]), traced.clone()
    assert quantize_graph(model, plan) == {"small.block.first", "small.block.second"}
    tokens = _tokens()
    exact = TorchSession(spec).run({"tokens": tokens})["made"]
    fake = TorchSession(spec, plan.prepare).run({"tokens": tokens})["made"]
    made = _run(model, tokens)
    assert _relative(made, fake) < TOLERANCE.get(name, 1e-5)
    assert 1e-3 < _relative(made, exact) < 0.6  # 4 bit move its sharp attention


def test_the_graph_that_is_quantised_stays_as_it_was(spec: GraphSpec, traced: ir.Model) -> None:
    before = len(list(traced.graph))
    quantize_graph(traced.clone(), _plan(spec, traced, RULES["int8"]))
    assert len(list(traced.graph)) == before


def test_smoothing_helps_where_a_channel_is_large(spec: GraphSpec, traced: ir.Model) -> None:
    rough = msgspec.structs.replace(RULES["int8"], method="max")
    tokens = _tokens()
    exact = TorchSession(spec).run({"tokens": tokens})["made"]
    errors = [
        _relative(TorchSession(spec, _plan(spec, traced, rule).prepare).run({"tokens": tokens})["made"], exact)
        for rule in (rough, RULES["int8"])
    ]
    assert errors[1] < 0.8 * errors[0]


def test_a_low_rank_branch_helps(spec: GraphSpec, traced: ir.Model) -> None:
    tokens = _tokens()
    exact = TorchSession(spec).run({"tokens": tokens})["made"]
    plain = LayerRule(layers="*", weights="int4", block=32)
    errors = [
        _relative(TorchSession(spec, _plan(spec, traced, rule).prepare).run({"tokens": tokens})["made"], exact)
        for rule in (plain, RULES["svdquant"])
    ]
    assert errors[1] < errors[0]


def test_attention_is_rounded_where_it_is_planned(spec: GraphSpec, traced: ir.Model) -> None:
    name = "small.block.attn.attend"
    attention = AttentionPlan(name, torch.float32, (8.0, 8.0, 30.0))
    plan, model = ComponentPlan({}, {name: attention}), traced.clone()
    assert quantize_graph(model, plan) == {name}
    assert [node.op_type for node in model.graph].count("QuantizeLinear") == 4
    tokens = _tokens()
    fake = TorchSession(spec, plan.prepare).run({"tokens": tokens})["made"]
    assert _relative(_run(model, tokens), fake) < 2e-2
    assert 1e-3 < _relative(fake, TorchSession(spec).run({"tokens": tokens})["made"]) < 0.2


def test_dynamic_blocks_are_tensorrts_operator(spec: GraphSpec, traced: ir.Model) -> None:
    rule = LayerRule(layers="*", weights="nvfp4", activations="nvfp4")
    model = traced.clone()
    quantize_graph(model, _plan(spec, traced, rule))
    domains = {node.domain for node in model.graph}
    assert domains == {"", "trt"}
    assert model.graph.opset_imports == {"": 23, "trt": 1}


def test_a_weight_is_quantised_once_for_all_its_tensors(
    spec: GraphSpec, traced: ir.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    plan, model = _plan(spec, traced, RULES["int4"]), traced.clone()
    name = "small.block.first"

    def counted(weight: Tensor, layer: LayerPlan) -> QuantizedLayer:
        calls.append(layer.name)
        return quantize_layer(weight, layer)

    monkeypatch.setattr("unipic2_edge.export.quantization.qdq.quantize_layer", counted)
    quantize_graph(model, replace(plan, layers={name: plan.layers[name]}))
    for tensor in sorted(model.graph.initializers):
        value = model.graph.initializers[tensor].const_value
        assert value is not None
        value.tobytes()
    assert calls == [name]
