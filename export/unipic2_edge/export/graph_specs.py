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
}


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


_IN_MEMORY: Mapping[str, Load] = {}


def _tensor(name: str, dtype: torch.dtype, *shape: int | str) -> TensorSpec:
    """A tensor's spec, with the dtype by numpy's name."""
    return TensorSpec(name=name, dtype=str(dtype).removeprefix("torch."), shape=shape)


def _example(spec: TensorSpec, generator: torch.Generator) -> Tensor:
    shape = [EXAMPLE_SIZES[side] if isinstance(side, str) else side for side in spec.shape]
    dtype = getattr(torch, spec.dtype)
    if dtype == torch.int64:
        return torch.randint(3, 200, shape, generator=generator)
    return torch.randn(shape, generator=generator).to(dtype)


def _border(tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """As a graph takes or gives them: floats in float32 whatever the precision inside, so that hosts have one."""
    return tuple(
        tensor if tensor.dtype == "int64" else msgspec.structs.replace(tensor, dtype="float32") for tensor in tensors
    )


def _spec(
    name: str,
    component: str,
    stages: tuple[Stage, ...],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
) -> GraphSpec:
    return GraphSpec(name, component, stages, _border(inputs), _border(outputs))


def _whole(
    name: str,
    component: str,
    module: nn.Module,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    loads: Mapping[str, Load] = _IN_MEMORY,
) -> GraphSpec:
    return _spec(name, component, (Stage("", module, inputs, outputs, loads),), inputs, outputs)


def modulation_spec(module: Modulation, dtype: torch.dtype, loads: Mapping[str, Load] = _IN_MEMORY) -> GraphSpec:
    """`modulation`: once a picture, for all steps."""
    joint, hidden = module.context_embedder.in_features, module.context_embedder.out_features
    inputs = (
        _tensor("timestep", torch.float32, "steps"),
        _tensor("pooled", torch.float32, "batch", module.text_embedder.linear_1.in_features),
        _tensor("context", dtype, "batch", "context", joint),
    )
    outputs = (
        _tensor("modulation", dtype, "steps", "batch", module.width),
        _tensor("embedded_context", dtype, "batch", "context", hidden),
    )
    return _whole("modulation", "denoiser", module, inputs, outputs, loads)


def denoiser_spec(module: SequenceDenoiser, dtype: torch.dtype, loads: Mapping[str, Load] = _IN_MEMORY) -> GraphSpec:
    """`denoiser`: every step, generation and editing alike; staged, so that equal blocks are traced once."""
    values, hidden = module.head.proj_out.out_features, module.head.proj_out.in_features
    patches = _tensor("patches", dtype, "batch", "tokens", values)
    positions = _tensor("positions", dtype, "tokens", hidden)
    tokens = _tensor("tokens", dtype, "batch", "tokens", hidden)
    context = _tensor("context", dtype, "batch", "context", hidden)
    modulation = _tensor("modulation", dtype, "batch", sum(module.parts.widths))
    velocity = _tensor("velocity", dtype, "batch", "tokens", values)
    parts = tuple(
        _tensor(f"modulation.{index}", dtype, "batch", width) for index, width in enumerate(module.parts.widths)
    )
    last = len(module.transformer_blocks) - 1
    blocks = []
    for index, (block, part) in enumerate(zip(module.transformer_blocks, parts[:-1], strict=True)):
        path, made = f"transformer_blocks.{index}", (tokens,) if index == last else (tokens, context)
        blocks.append(Stage(path, block, (tokens, context, part), made, _portion(loads, path)))
    stages = (
        Stage("", module.parts, (modulation,), parts),
        Stage("", module.embedding, (patches, positions), (tokens,), _portion(loads, "embedding")),
        *blocks,
        Stage("", module.head, (tokens, parts[-1]), (velocity,), _portion(loads, "head")),
    )
    return _spec("denoiser", "denoiser", stages, (patches, positions, context, modulation), (velocity,))


def _portion(loads: Mapping[str, Load], child: str) -> Mapping[str, Load]:
    """The load of a child that is a stage of its own."""
    return {"": loads[child]} if child in loads else _IN_MEMORY


def clip_spec(name: str, module: ClipGraph, length: int, dtype: torch.dtype) -> GraphSpec:
    """`text_encoder`, `text_encoder_2`."""
    config = module.model.config
    inputs = (_tensor("input_ids", torch.int64, "batch", length),)
    outputs = (
        _tensor("hidden", dtype, "batch", length, config.hidden_size),
        _tensor("pooled", dtype, "batch", config.projection_dim),
    )
    return _whole(name, name, module, inputs, outputs)


def t5_spec(
    name: str, module: T5Graph, length: int, dtype: torch.dtype, loads: Mapping[str, Load] = _IN_MEMORY
) -> GraphSpec:
    """`text_encoder_3`, staged, so that its blocks are traced once."""
    hidden, bias = module.embedding.width, module.embedding.position_bias
    input_ids = _tensor("input_ids", torch.int64, "batch", length)
    embedded = _tensor("hidden", dtype, "batch", length, hidden)
    states = _tensor("hidden", module.states_dtype, "batch", length, hidden)
    positions = _tensor("position_bias", dtype, *bias.shape)
    blocks = [
        Stage(f"encoder.block.{index}", block, (states, positions), (states,), _portion(loads, f"block.{index}"))
        for index, block in enumerate(module.block)
    ]
    norm, norm_load = module.final_layer_norm, _portion(loads, "final_layer_norm")
    stages = (
        Stage("", module.embedding, (input_ids,), (embedded, positions), _portion(loads, "embedding")),
        *blocks,
        Stage("encoder.final_layer_norm", norm, (states,), (embedded,), norm_load),
    )
    return _spec(name, name, stages, (input_ids,), (embedded,))


def vae_specs(
    encoder: VaeEncoderGraph, decoder: VaeDecoderGraph, channels: int, dtype: torch.dtype
) -> tuple[GraphSpec, GraphSpec]:
    """`vae_encoder` and `vae_decoder`, which share the component `vae`."""
    image = _tensor("image", dtype, "batch", 3, "height", "width")
    mean, logvar, latents = (
        _tensor(name, dtype, "batch", channels, "h", "w") for name in ("mean", "logvar", "latents")
    )
    return (
        _whole("vae_encoder", "vae", encoder, (image,), (mean, logvar)),
        _whole("vae_decoder", "vae", decoder, (latents,), (image,)),
    )
