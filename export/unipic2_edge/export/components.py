"""The components of a bundle: which part of the checkpoint each is made from, and as which graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from unipic2_edge.runtime.errors import CheckpointError, RequestError
from unipic2_edge.training.checkpoint import Checkpoint

from .encoders import ClipGraph, T5Graph, VaeDecoderGraph, VaeEncoderGraph
from .filling import denoiser_loads, modulation_loads, t5_loads
from .graph_specs import GraphSpec, clip_spec, denoiser_spec, modulation_spec, t5_spec, vae_specs
from .sequence import split

#: Component → part of the checkpoint.
PARTS = {
    "denoiser": "transformer",
    "vae": "vae",
    "text_encoder": "text_encoder",
    "text_encoder_2": "text_encoder_2",
    "text_encoder_3": "text_encoder_3",
}
COMPONENTS = tuple(PARTS)


def check_components(checkpoint: Checkpoint, components: tuple[str, ...]) -> None:
    """Refuse, before any work, what cannot be exported.

    Raises:
        RequestError: a component of that name does not exist.
        CheckpointError: the checkpoint lacks the part.
    """
    unknown = sorted(set(components) - set(COMPONENTS))
    if unknown:
        raise RequestError(f"there is no component {unknown[0]!r}", f"use some of {', '.join(COMPONENTS)}")
    missing = [PARTS[component] for component in components if not checkpoint.has(PARTS[component])]
    if missing:
        raise CheckpointError(
            f"{checkpoint.folder} lacks {', '.join(missing)}",
            "complete the checkpoint, or name the components that are there with --components",
        )


def graphs_of(checkpoint: Checkpoint, component: str, dtype: torch.dtype) -> Iterator[GraphSpec]:
    """Describe a component's graphs; the large parts' weights are read only when they are written.

    Raises:
        CheckpointError: the part is missing or cannot be loaded.
    """
    return _GRAPHS[component](checkpoint, component, dtype)


def _denoiser(checkpoint: Checkpoint, component: str, dtype: torch.dtype) -> Iterator[GraphSpec]:
    skeleton = checkpoint.transformer_skeleton(dtype)
    modulation, denoiser = split(skeleton.model)
    yield modulation_spec(modulation, dtype, modulation_loads(skeleton, modulation))
    yield denoiser_spec(denoiser, dtype, denoiser_loads(skeleton))


def _vae(checkpoint: Checkpoint, component: str, dtype: torch.dtype) -> Iterator[GraphSpec]:
    vae = checkpoint.load_vae(dtype)
    yield from vae_specs(VaeEncoderGraph(vae), VaeDecoderGraph(vae), vae.config.latent_channels, dtype)


def _clip(checkpoint: Checkpoint, component: str, dtype: torch.dtype) -> Iterator[GraphSpec]:
    model = checkpoint.load_text_encoder(component, dtype)
    yield clip_spec(component, ClipGraph(model).eval(), model.config.max_position_embeddings, dtype)


def _t5(checkpoint: Checkpoint, component: str, dtype: torch.dtype) -> Iterator[GraphSpec]:
    skeleton = checkpoint.t5_skeleton(dtype)
    length = checkpoint.tokenizers().lengths[2]
    yield t5_spec(component, T5Graph(skeleton.model, length).eval(), length, dtype, t5_loads(skeleton, length))


_GRAPHS: dict[str, Callable[[Checkpoint, str, torch.dtype], Iterator[GraphSpec]]] = {
    "denoiser": _denoiser,
    "vae": _vae,
    "text_encoder": _clip,
    "text_encoder_2": _clip,
    "text_encoder_3": _t5,
}
