"""Every graph's signature and the stages it is traced in: the contract between export and runtime, in one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import torch
from torch import Tensor, nn

from unipic2_edge.runtime.bundle import TensorSpec

from .encoders import ClipGraph, T5Graph, VaeDecoderGraph, VaeEncoderGraph
from .portions import Load
from .sequence import Modulation, SequenceDenoiser

#: Sizes that stand in for the named dimensions while tracing; all differ, and none is 0 or 1.
EXAMPLE_SIZES = {
    "steps": 3,
    "batch": 2,
    "tokens": 24,
    "context": 11,
    "height": 64,
    "width": 96,
    "h": 16,
    "w": 24,
    "sequence": 13,
    "past": 7,
    "total": 20,  # of past and sequence
    "selected": 5,
    "windows": 3,
    "image_tokens": 40,
    "queries": 6,
}


#: The newest that JetPack 6's TensorRT 10.3 parses; attention stays in the decomposed form that all fuse.
OPSET = 20

#: What the names of a language model's keys and values begin with, in and out of its graphs.
CACHES = ("past_", "present_", "cache_", "updated_")


@dataclass(frozen=True)
class Stage:
    """A module within a graph: where it stands, and the named values it takes and makes.

    A value may be made anew under its name by a later stage, as the tokens are by every block.

    A module on the meta device is a structure without weights: `loads` say how to read them, for every child whose
    name is before the weights' names ("" for the whole module). Any other module holds its weights.
    """

    path: str  # before the names of the module's weights; empty where the module is the whole graph
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    loads: Mapping[str, Load] = field(default_factory=dict)

    def load_of(self, name: str) -> tuple[Load, str]:
        """How to read one of the module's weights: the portion it is in, and its name there."""
        for child, load in self.loads.items():
            if not child or name.startswith(f"{child}."):
                return load, name[len(child) + 1 :] if child else name
        return self._itself, name

    def _itself(self) -> nn.Module:
        return self.module

    def example(self) -> tuple[Tensor, ...]:
        """Random inputs of the example sizes."""
        generator = torch.Generator().manual_seed(0)
        return tuple(_example(spec, generator) for spec in self.inputs)


@dataclass(frozen=True)
class GraphSpec:
    """A graph: its component, its named inputs and outputs, and its stages from first to last."""

    name: str
    component: str
    stages: tuple[Stage, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: str = ""  # before the names of its weights, where another graph of the component has the same ones
    opset: int = OPSET

    @property
    def prefix(self) -> str:
        """Before the names of its weights."""
        return self.weights or self.name


IN_MEMORY: Mapping[str, Load] = {}


def tensor_spec(name: str, dtype: torch.dtype, *shape: int | str) -> TensorSpec:
    """A tensor's spec, with the dtype by numpy's name."""
    return TensorSpec(name=name, dtype=str(dtype).removeprefix("torch."), shape=shape)


def _example(spec: TensorSpec, generator: torch.Generator) -> Tensor:
    shape = [EXAMPLE_SIZES[side] if isinstance(side, str) else side for side in spec.shape]
    dtype = getattr(torch, spec.dtype)
    if dtype == torch.int64:
        return torch.randint(3, 200, shape, generator=generator)
    return torch.randn(shape, generator=generator).to(dtype)


def _border(tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """As a graph takes or gives them: floats in float32 whatever the precision inside, so that hosts have one.

    Caches stay as they are inside: no host reads them, and they go in circles.
    """
    return tuple(
        tensor
        if tensor.dtype == "int64" or tensor.name.startswith(CACHES)
        else msgspec.structs.replace(tensor, dtype="float32")
        for tensor in tensors
    )


def graph_spec(
    name: str,
    component: str,
    stages: tuple[Stage, ...],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
) -> GraphSpec:
    """A graph of several stages, with float32 at its border."""
    return GraphSpec(name, component, stages, _border(inputs), _border(outputs))


def whole_graph(
    name: str,
    component: str,
    module: nn.Module,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    loads: Mapping[str, Load] = IN_MEMORY,
) -> GraphSpec:
    """A graph of one stage."""
    return graph_spec(name, component, (Stage("", module, inputs, outputs, loads),), inputs, outputs)


def modulation_spec(module: Modulation, dtype: torch.dtype, loads: Mapping[str, Load] = IN_MEMORY) -> GraphSpec:
    """`modulation`: once a picture, for all steps."""
    joint, hidden = module.context_embedder.in_features, module.context_embedder.out_features
    inputs = (
        tensor_spec("timestep", torch.float32, "steps"),
        tensor_spec("pooled", torch.float32, "batch", module.text_embedder.linear_1.in_features),
        tensor_spec("context", dtype, "batch", "context", joint),
    )
    outputs = (
        tensor_spec("modulation", dtype, "steps", "batch", module.width),
        tensor_spec("embedded_context", dtype, "batch", "context", hidden),
    )
    return whole_graph("modulation", "denoiser", module, inputs, outputs, loads)


def denoiser_spec(module: SequenceDenoiser, dtype: torch.dtype, loads: Mapping[str, Load] = IN_MEMORY) -> GraphSpec:
    """`denoiser`: every step, generation and editing alike; staged, so that equal blocks are traced once."""
    values, hidden = module.head.proj_out.out_features, module.head.proj_out.in_features
    patches = tensor_spec("patches", dtype, "batch", "tokens", values)
    positions = tensor_spec("positions", dtype, "tokens", hidden)
    tokens = tensor_spec("tokens", dtype, "batch", "tokens", hidden)
    context = tensor_spec("context", dtype, "batch", "context", hidden)
    modulation = tensor_spec("modulation", dtype, "batch", sum(module.parts.widths))
    velocity = tensor_spec("velocity", dtype, "batch", "tokens", values)
    parts = tuple(
        tensor_spec(f"modulation.{index}", dtype, "batch", width) for index, width in enumerate(module.parts.widths)
    )
    last = len(module.transformer_blocks) - 1
    blocks = []
    for index, (block, part) in enumerate(zip(module.transformer_blocks, parts[:-1], strict=True)):
        path, made = f"transformer_blocks.{index}", (tokens,) if index == last else (tokens, context)
        blocks.append(Stage(path, block, (tokens, context, part), made, portion(loads, path)))
    stages = (
        Stage("", module.parts, (modulation,), parts),
        Stage("", module.embedding, (patches, positions), (tokens,), portion(loads, "embedding")),
        *blocks,
        Stage("", module.head, (tokens, parts[-1]), (velocity,), portion(loads, "head")),
    )
    return graph_spec("denoiser", "denoiser", stages, (patches, positions, context, modulation), (velocity,))


def portion(loads: Mapping[str, Load], child: str) -> Mapping[str, Load]:
    """The load of a child that is a stage of its own."""
    return {"": loads[child]} if child in loads else IN_MEMORY


def clip_spec(name: str, module: ClipGraph, length: int, dtype: torch.dtype) -> GraphSpec:
    """`text_encoder`, `text_encoder_2`."""
    config = module.model.config
    inputs = (tensor_spec("input_ids", torch.int64, "batch", length),)
    outputs = (
        tensor_spec("hidden", dtype, "batch", length, config.hidden_size),
        tensor_spec("pooled", dtype, "batch", config.projection_dim),
    )
    return whole_graph(name, name, module, inputs, outputs)


def t5_spec(
    name: str, module: T5Graph, length: int, dtype: torch.dtype, loads: Mapping[str, Load] = IN_MEMORY
) -> GraphSpec:
    """`text_encoder_3`, staged, so that its blocks are traced once."""
    hidden, bias = module.embedding.width, module.embedding.position_bias
    input_ids = tensor_spec("input_ids", torch.int64, "batch", length)
    embedded = tensor_spec("hidden", dtype, "batch", length, hidden)
    states = tensor_spec("hidden", module.states_dtype, "batch", length, hidden)
    positions = tensor_spec("position_bias", dtype, *bias.shape)
    blocks = [
        Stage(f"encoder.block.{index}", block, (states, positions), (states,), portion(loads, f"block.{index}"))
        for index, block in enumerate(module.block)
    ]
    norm, norm_load = module.final_layer_norm, portion(loads, "final_layer_norm")
    stages = (
        Stage("", module.embedding, (input_ids,), (embedded, positions), portion(loads, "embedding")),
        *blocks,
        Stage("encoder.final_layer_norm", norm, (states,), (embedded,), norm_load),
    )
    return graph_spec(name, name, stages, (input_ids,), (embedded,))


def vae_specs(
    encoder: VaeEncoderGraph, decoder: VaeDecoderGraph, channels: int, dtype: torch.dtype
) -> tuple[GraphSpec, GraphSpec]:
    """`vae_encoder` and `vae_decoder`, which share the component `vae`."""
    image = tensor_spec("image", dtype, "batch", 3, "height", "width")
    mean, logvar, latents = (
        tensor_spec(name, dtype, "batch", channels, "h", "w") for name in ("mean", "logvar", "latents")
    )
    return (
        whole_graph("vae_encoder", "vae", encoder, (image,), (mean, logvar)),
        whole_graph("vae_decoder", "vae", decoder, (latents,), (image,)),
    )
