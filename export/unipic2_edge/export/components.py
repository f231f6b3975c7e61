"""The components of a bundle: which part of the checkpoint each is made from, and as which graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from unipic2_edge.runtime.errors import CheckpointError, RequestError
from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.layout import QWEN
from unipic2_edge.training.metaquery.checkpoint import MetaqueryCheckpoint

from .encoders import ClipGraph, T5Graph, VaeDecoderGraph, VaeEncoderGraph
from .filling import denoiser_loads, modulation_loads, t5_loads
from .graph_specs import GraphSpec, clip_spec, denoiser_spec, modulation_spec, t5_spec, vae_specs
from .qwen_filling import connector_loads, language_loads, vision_loads
from .qwen_specs import connector_spec, language_specs, lm_head_spec, vision_spec
from .sequence import split

_PAINTING = {"denoiser": "transformer", "vae": "vae"}
_TEXT = {name: name for name in ("text_encoder", "text_encoder_2", "text_encoder_3")}
_QWEN = {"vision": QWEN, "language": QWEN, "lm_head": QWEN, "connector": "conditioner"}
#: Component → part of the checkpoint, by variant.
PARTS = {"kontext": _PAINTING | _TEXT, "metaquery": _PAINTING | _QWEN}
_CACHE_LENGTH = 2048  # tokens of a cache that is written in place, or what the model reads if that is less


def components_of(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The components of a checkpoint's variant, whether or not its parts are all there."""
    return tuple(PARTS[checkpoint.variant])


def check_components(checkpoint: Checkpoint, components: tuple[str, ...]) -> None:
    """Refuse, before any work, what cannot be exported.

    Raises:
        RequestError: a component of that name does not exist.
        CheckpointError: the checkpoint lacks the part.
    """
    parts = PARTS[checkpoint.variant]
    unknown = sorted(set(components) - set(parts))
    if unknown:
        raise RequestError(
            f"a {checkpoint.variant} checkpoint has no component {unknown[0]!r}", f"use some of {', '.join(parts)}"
        )
    missing = [parts[component] for component in components if not checkpoint.has(parts[component])]
    if missing:
        raise CheckpointError(
            f"{checkpoint.folder} lacks {', '.join(dict.fromkeys(missing))}",
            "complete the checkpoint, or name the components that are there with --components",
        )


def graphs_of(checkpoint: Checkpoint, component: str, dtype: torch.dtype) -> Iterator[GraphSpec]:
    """Describe a component's graphs; the large parts' weights are read only when they are written.

    Raises:
        CheckpointError: the part is missing or cannot be loaded.
    """
    if component in _QUERYING and isinstance(checkpoint, MetaqueryCheckpoint):
        return _QUERYING[component](checkpoint, dtype)
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


def _vision(checkpoint: MetaqueryCheckpoint, dtype: torch.dtype) -> Iterator[GraphSpec]:
    skeleton = checkpoint.qwen_skeleton(dtype)
    yield vision_spec(skeleton.model.model.visual, dtype, vision_loads(skeleton))


def _language(checkpoint: MetaqueryCheckpoint, dtype: torch.dtype) -> Iterator[GraphSpec]:
    skeleton = checkpoint.qwen_skeleton(dtype)
    model = skeleton.model.model.language_model
    length = min(_CACHE_LENGTH, model.config.max_position_embeddings)
    yield from language_specs(model, dtype, length, partial(language_loads, skeleton))


def _lm_head(checkpoint: MetaqueryCheckpoint, dtype: torch.dtype) -> Iterator[GraphSpec]:
    skeleton = checkpoint.qwen_skeleton(dtype)
    head = skeleton.model.lm_head
    yield lm_head_spec(head, dtype, {"": partial(skeleton.fill, head)})


def _connector(checkpoint: MetaqueryCheckpoint, dtype: torch.dtype) -> Iterator[GraphSpec]:
    skeleton = checkpoint.conditioner_skeleton(dtype)
    yield connector_spec(skeleton.model, dtype, connector_loads(skeleton))


_GRAPHS: dict[str, Callable[[Checkpoint, str, torch.dtype], Iterator[GraphSpec]]] = {
    "denoiser": _denoiser,
    "vae": _vae,
    "text_encoder": _clip,
    "text_encoder_2": _clip,
    "text_encoder_3": _t5,
}
_QUERYING: dict[str, Callable[[MetaqueryCheckpoint, torch.dtype], Iterator[GraphSpec]]] = {
    "vision": _vision,
    "language": _language,
    "lm_head": _lm_head,
    "connector": _connector,
}
