"""Every graph's signature and the example that traces it: the contract between export and runtime, in one table."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unipic2_edge.runtime.bundle import TensorSpec

Shape = tuple[int | str, ...]

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
class GraphSpec:
    """A graph to be traced: its module, its component, its named inputs and outputs."""

    name: str
    component: str
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def example(self) -> tuple[Tensor, ...]:
        """Random inputs of the example sizes."""
        generator = torch.Generator().manual_seed(0)
        return tuple(_example(spec, generator) for spec in self.inputs)


def tensor(name: str, dtype: torch.dtype, *shape: int | str) -> TensorSpec:
    """A tensor's spec, with the dtype by numpy's name."""
    return TensorSpec(name=name, dtype=str(dtype).removeprefix("torch."), shape=shape)


def _example(spec: TensorSpec, generator: torch.Generator) -> Tensor:
    shape = [EXAMPLE_SIZES[side] if isinstance(side, str) else side for side in spec.shape]
    dtype = getattr(torch, spec.dtype)
    if dtype == torch.int64:
        return torch.randint(3, 200, shape, generator=generator)
    return torch.randn(shape, generator=generator).to(dtype)


def modulation_spec(
    module: nn.Module, pooled: int, joint: int, hidden: int, width: int, dtype: torch.dtype
) -> GraphSpec:
    """`modulation`: once a picture, for all steps."""
    return GraphSpec(
        "modulation",
        "denoiser",
        module,
        (
            tensor("timestep", torch.float32, "steps"),
            tensor("pooled", dtype, "batch", pooled),
            tensor("context", dtype, "batch", "context", joint),
        ),
        (
            tensor("modulation", dtype, "steps", "batch", width),
            tensor("embedded_context", dtype, "batch", "context", hidden),
        ),
    )


def denoiser_spec(module: nn.Module, patch_values: int, hidden: int, width: int, dtype: torch.dtype) -> GraphSpec:
    """`denoiser`: every step, generation and editing alike."""
    return GraphSpec(
        "denoiser",
        "denoiser",
        module,
        (
            tensor("patches", dtype, "batch", "tokens", patch_values),
            tensor("positions", dtype, "tokens", hidden),
            tensor("context", dtype, "batch", "context", hidden),
            tensor("modulation", dtype, "batch", width),
        ),
        (tensor("velocity", dtype, "batch", "tokens", patch_values),),
    )


def clip_spec(name: str, module: nn.Module, length: int, hidden: int, pooled: int, dtype: torch.dtype) -> GraphSpec:
    """`text_encoder`, `text_encoder_2`."""
    return GraphSpec(
        name,
        name,
        module,
        (tensor("input_ids", torch.int64, "batch", length),),
        (tensor("hidden", dtype, "batch", length, hidden), tensor("pooled", dtype, "batch", pooled)),
    )


def t5_spec(module: nn.Module, length: int, hidden: int, dtype: torch.dtype) -> GraphSpec:
    """`text_encoder_3`."""
    name = "text_encoder_3"
    return GraphSpec(
        name,
        name,
        module,
        (tensor("input_ids", torch.int64, "batch", length),),
        (tensor("hidden", dtype, "batch", length, hidden),),
    )


def vae_specs(encoder: nn.Module, decoder: nn.Module, channels: int, dtype: torch.dtype) -> tuple[GraphSpec, GraphSpec]:
    """`vae_encoder` and `vae_decoder`, which share the component `vae`."""
    image = tensor("image", dtype, "batch", 3, "height", "width")
    latents = ("batch", channels, "h", "w")
    moments = (tensor("mean", dtype, *latents), tensor("logvar", dtype, *latents))
    return (
        GraphSpec("vae_encoder", "vae", encoder, (image,), moments),
        GraphSpec("vae_decoder", "vae", decoder, (tensor("latents", dtype, *latents),), (image,)),
    )
