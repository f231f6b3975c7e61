"""Qwen2.5-VL's graphs and the connector against transformers, on a tiny random model, through ONNX Runtime."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

from unipic2_edge.export.assembly import assemble
from unipic2_edge.export.graph_specs import GraphSpec
from unipic2_edge.export.qwen_specs import connector_spec, language_specs, lm_head_spec, vision_spec
from unipic2_edge.training.metaquery.conditioner import ConnectorConfig, MetaQueryConditioner

Floats = NDArray[np.float32]
HIDDEN, LAYERS, PAIRS, ANGLE = 128, 3, 2, 32
SECTIONS = (4, 6, 6)
SLOTS, MERGE = 64, 2
CACHE = 48
HIDE = -1e4


@pytest.fixture(scope="module")
def model() -> Any:
    """Random weights large enough for differences to show."""
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": list(SECTIONS)}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 300,
            "hidden_size": HIDDEN,
            "intermediate_size": 256,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "num_key_value_heads": PAIRS,
            "rope_parameters": rope,
            "tie_word_embeddings": False,
        },
        vision_config={
            "depth": 3,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "patch_size": 14,
            "window_size": 112,
            "out_hidden_size": HIDDEN,
            "fullatt_block_indexes": [1],
        },
        image_token_id=290,
        video_token_id=291,
        vision_start_token_id=292,
        vision_end_token_id=293,
    )
    config._attn_implementation = "eager"
    torch.manual_seed(3)
    made = Qwen2_5_VLForConditionalGeneration(config).eval()
    for name, parameter in made.named_parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 1
        scale = 0.7 / fan**0.5 if parameter.ndim > 1 else 0.1
        parameter.data.normal_(0 if "norm" not in name and "ln_q" not in name else 1, scale)
    return made


def _session(spec: GraphSpec) -> onnxruntime.InferenceSession:
    proto = ir.to_proto(_in_memory(assemble(spec)))
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def _in_memory(model: ir.Model) -> ir.Model:
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        value.const_value = ir.Tensor(value.const_value.numpy(), name=value.name)
    return model


def _close(made: Floats, expected: Any, most: float = 1e-5) -> None:
    exact = expected.detach().numpy() if isinstance(expected, torch.Tensor) else expected
    assert np.linalg.norm(made - exact) / np.linalg.norm(exact) < most


def _windows(rows: int, columns: int, angle: int) -> tuple[Mapping[str, Any], NDArray[np.int64]]:
    """The window plan of a grid of patches, and which patch stands in which slot (−1: none)."""
    cells = SLOTS // MERGE**2
    side = int(cells**0.5)
    height, width = rows // MERGE, columns // MERGE
    down, across = -(-height // side), -(-width // side)
    places = np.full((down * side, across * side), -1, np.int64)
    places[:height, :width] = np.arange(height * width).reshape(height, width)
    order = places.reshape(down, side, across, side).transpose(0, 2, 1, 3).reshape(down * across, cells)
    patches = np.where(order[..., None] >= 0, order[..., None] * MERGE**2 + np.arange(MERGE**2), -1)
    patches = patches.reshape(down * across, SLOTS)
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1)
    grid = grid.reshape(height, MERGE, width, MERGE, 2).transpose(0, 2, 1, 3, 4).reshape(-1, 2)
    frequencies = 1 / 10000 ** (np.arange(0, angle // 2, 2, dtype=np.float32) / (angle // 2))
    turns = (grid[..., None] * frequencies).reshape(len(grid), -1).astype(np.float32)
    turns = np.concatenate([turns, turns], -1)[np.maximum(patches, 0)]
    restore = np.argsort(order[order >= 0])
    slots = np.flatnonzero(order.reshape(-1) >= 0)[restore]
    bias = np.where(patches >= 0, 0, HIDE).astype(np.float32)
    return {"rope_cos": np.cos(turns), "rope_sin": np.sin(turns), "key_bias": bias, "restore_index": slots}, patches


def test_vision_sees_what_transformers_sees(model: Any) -> None:
    visual = model.model.visual
    session = _session(vision_spec(visual, torch.float32))
    for rows, columns in ((8, 8), (2, 2), (16, 16), (10, 14), (4, 60), (22, 6), (24, 32), (2, 18)):
        pixels = np.random.default_rng(rows).standard_normal((rows * columns, 1176)).astype(np.float32)
        plan, patches = _windows(rows, columns, 16)
        feed = {"patches": pixels[np.maximum(patches, 0)] * (patches >= 0)[..., None], **plan}
        with torch.no_grad():
            seen = visual(torch.from_numpy(pixels), grid_thw=torch.tensor([[1, rows, columns]]))
        _close(session.run(None, feed)[0], getattr(seen, "pooler_output", seen))


def _angles(positions: NDArray[np.int64]) -> dict[str, Floats]:
    """positions [3, B, S] → M-RoPE's tables (Qwen2-VL, arXiv 2409.12191)."""
    frequencies = 1 / 1e6 ** (np.arange(0, ANGLE, 2, dtype=np.float32) / ANGLE)
    turns = positions[..., None].astype(np.float32) * frequencies  # [3, B, S, d/2]
    ends = np.cumsum(SECTIONS)[:-1]
    parts = [part[axis % 3] for axis, part in enumerate(np.split(turns, ends, axis=-1))]
    both = np.concatenate([*parts, *parts], -1)
    return {"rope_cos": np.cos(both), "rope_sin": np.sin(both)}


def _causal(length: int, past: int, total: int) -> Floats:
    seen = np.arange(total)[None] <= past + np.arange(length)[:, None]
    return np.where(seen, 0, HIDE).astype(np.float32)[None, None]


class _Decoder:
    """The language graph with its cache, chunk by chunk."""

    def __init__(self, session: onnxruntime.InferenceSession, words: Floats, positions: NDArray[np.int64]) -> None:
        self.session, self.words, self.angles = session, words, _angles(positions)
        self.static = "write_index" in {tensor.name for tensor in session.get_inputs()}
        self.name = "cache" if self.static else "past"
        shape = (len(words), PAIRS, CACHE if self.static else 0, ANGLE)
        self.caches = {
            f"{self.name}_{kind}_{layer}": np.zeros(shape, np.float32)
            for layer in range(LAYERS)
            for kind in ("key", "value")
        }
        self.done = 0

    def run(self, length: int, select: list[int]) -> Floats:
        chunk, total = slice(self.done, self.done + length), CACHE if self.static else self.done + length
        bias = np.repeat(_causal(length, self.done, total), len(self.words), 0)
        feed = {name: table[:, chunk] for name, table in self.angles.items()}
        feed |= {"inputs_embeds": self.words[:, chunk], "attention_bias": bias, "select_index": np.array(select)}
        if self.static:
            feed["write_index"] = np.full(len(self.words), self.done)
        hidden, *caches = self.session.run(None, feed | self.caches)
        self.caches = dict(zip(self.caches, caches, strict=True))
        self.done += length
        return np.asarray(hidden)


@pytest.fixture(scope="module")
def specs(model: Any) -> tuple[GraphSpec, ...]:
    return language_specs(model.model.language_model, torch.float32, CACHE)


@pytest.mark.parametrize("static", [False, True], ids=["growing", "static"])
def test_language_prefills_encodes_and_decodes(model: Any, specs: tuple[GraphSpec, ...], static: bool) -> None:
    rng = np.random.default_rng(4)
    words = rng.standard_normal((2, 30, HIDDEN)).astype(np.float32)
    positions = np.sort(rng.integers(0, 40, (3, 2, 30)), -1)
    with torch.no_grad():
        exact = model.model.language_model(
            inputs_embeds=torch.from_numpy(words), position_ids=torch.from_numpy(positions), use_cache=False
        ).last_hidden_state.numpy()
    session = _session(specs[1 if static else 0])
    whole = _Decoder(session, words, positions)
    _close(whole.run(30, list(range(22, 30))), exact[:, 22:])  # the queries at the end
    parts = _Decoder(session, words, positions)
    _close(parts.run(17, [16]), exact[:, 16:17])
    _close(parts.run(8, [0, 7]), exact[:, [17, 24]])
    for place in range(25, 30):
        _close(parts.run(1, [0]), exact[:, place : place + 1])


def test_both_language_graphs_have_the_same_weights(specs: tuple[GraphSpec, ...]) -> None:
    names = [{name for name in assemble(spec).graph.initializers if ".constant." not in name} for spec in specs]
    assert names[0] == names[1]


def test_the_head_gives_logits(model: Any) -> None:
    states = np.random.default_rng(5).standard_normal((1, 3, HIDDEN)).astype(np.float32)
    made = _session(lm_head_spec(model.lm_head, torch.float32)).run(None, {"hidden": states})[0]
    _close(made, model.lm_head(torch.from_numpy(states)))


@pytest.fixture
def conditioner() -> MetaQueryConditioner:
    torch.manual_seed(6)
    config = ConnectorConfig(hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
    made = MetaQueryConditioner(config.to_dict(), 6, HIDDEN, 20, 24).eval()
    for projector in (made.projector_2, made.projector_3):
        projector.weight.data.normal_(0, 0.1)
    return made


def test_the_connector_gives_context_and_pooled(conditioner: MetaQueryConditioner) -> None:
    states = np.random.default_rng(7).standard_normal((2, 6, HIDDEN)).astype(np.float32)
    context, pooled = conditioner(torch.from_numpy(states))
    made = _session(connector_spec(conditioner, torch.float32)).run(None, {"hidden": states})
    _close(made[0], context)
    _close(made[1], pooled)


def test_a_connectors_layer_is_siglips(conditioner: MetaQueryConditioner) -> None:
    config = SiglipVisionConfig(hidden_size=48, intermediate_size=96, num_attention_heads=4, layer_norm_eps=1e-6)
    config._attn_implementation = "eager"
    ours, theirs = conditioner.connector.layers[0], SiglipEncoderLayer(config).eval()
    theirs.load_state_dict(ours.state_dict())
    states = torch.randn(2, 6, 48)
    made = theirs(states, None)
    _close(ours(states).detach().numpy(), made[0] if isinstance(made, tuple) else made)


def test_a_conditioner_survives_its_folder(conditioner: MetaQueryConditioner, tmp_path: Path) -> None:
    conditioner.save_pretrained(tmp_path)
    again = MetaQueryConditioner.from_pretrained(tmp_path)
    assert again.state_dict().keys() == conditioner.state_dict().keys()
    assert all(torch.equal(value, conditioner.state_dict()[name]) for name, value in again.state_dict().items())
    prefixes = {name.partition(".")[0] for name in again.state_dict()}
    assert prefixes == {"meta_queries", "connector", "projector_1", "projector_2", "projector_3"}


def test_a_fresh_conditioner_says_nothing_to_the_denoiser() -> None:
    fresh = MetaQueryConditioner(ConnectorConfig(48, 96, 1, 4).to_dict(), 6, HIDDEN, 20, 24)
    context, pooled = fresh(torch.randn(1, 6, HIDDEN))
    assert not context.any()
    assert not pooled.any()
    assert fresh.meta_queries.std().item() == pytest.approx(HIDDEN**-0.5, rel=0.2)


#: Dimension → smallest, likely and largest, of a tiny language model and a small picture.
EXTENTS = {
    "batch": (1, 2, 2),
    "sequence": (1, 20, 40),
    "past": (0, 10, 40),
    "total": (1, 30, 80),
    "selected": (1, 1, 8),
    "windows": (1, 1, 4),
    "image_tokens": (1, 16, 64),
}


def _compiled(spec: GraphSpec) -> tuple[int, set[str]]:
    """A plan's bytes for RTX 40 and 50, made without a card, and the kinds of layers in the network."""
    rtx = pytest.importorskip("tensorrt_rtx")
    log = rtx.Logger(rtx.Logger.ERROR)
    builder = rtx.Builder(log)
    network = builder.create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = rtx.OnnxParser(network, log)
    assert parser.parse(ir.to_proto(_in_memory(assemble(spec))).SerializeToString()), parser.get_error(0).desc()
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    config.num_compute_capabilities = 2
    for index, name in enumerate(("SM89", "SM120")):
        config.set_compute_capability(getattr(rtx.ComputeCapability, name), index)
    for tensor in spec.inputs:
        sides = [EXTENTS[side] if isinstance(side, str) else (side,) * 3 for side in tensor.shape]
        profile.set_shape(tensor.name, *zip(*sides, strict=True))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    return plan.nbytes, {str(network.get_layer(index).type) for index in range(network.num_layers)}


@pytest.mark.slow
def test_every_graph_compiles_for_rtx(model: Any, conditioner: MetaQueryConditioner) -> None:
    half = copy.deepcopy(model).to(torch.bfloat16)
    grown, static = language_specs(half.model.language_model, torch.bfloat16, CACHE)
    head, connector = lm_head_spec(half.lm_head, torch.bfloat16), conditioner.to(torch.bfloat16)
    vision = vision_spec(half.model.visual, torch.bfloat16)
    for spec in (vision, grown, head, connector_spec(connector, torch.bfloat16)):
        assert _compiled(spec)[0] > 10_000
    size, kinds = _compiled(static)
    assert size > 10_000
    assert any("KV" in kind for kind in kinds), kinds  # TensorRT's own cache, written in place


@pytest.mark.slow
def test_language_compiles_in_float16(model: Any) -> None:
    half = copy.deepcopy(model.model.language_model).to(torch.float16)
    assert _compiled(language_specs(half, torch.float16)[0])[0] > 10_000
