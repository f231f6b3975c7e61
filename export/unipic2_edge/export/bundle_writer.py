"""Writes a bundle from a checkpoint: component by component, manifest last, the folder whole or not at all."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save as save_tensors

from unipic2_edge.runtime.bundle import (
    FORMAT_VERSION,
    Component,
    FileEntry,
    Graph,
    Latents,
    Manifest,
    Positions,
    Source,
    TaskDefaults,
    TextConditioning,
    TokenizerEntry,
    write_manifest,
)
from unipic2_edge.runtime.errors import CheckpointError, RequestError
from unipic2_edge.runtime.files import publishing, sha256_of, write_bytes
from unipic2_edge.training.checkpoint import MODELS, Checkpoint

from .encoders import ClipGraph, T5Graph, VaeDecoderGraph, VaeEncoderGraph
from .graph_specs import GraphSpec, clip_spec, denoiser_spec, modulation_spec, t5_spec, vae_specs
from .onnx_graphs import trace, weights_of, write_graph
from .recipes import ExportRecipe
from .sequence import position_tensors, split
from .weights import write_weights

logger = logging.getLogger(__name__)

#: Component names are those of the checkpoint's parts, but for the transformer.
COMPONENTS = ("denoiser", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
_TOOLS = ("unipic2-edge", "torch", "diffusers", "transformers", "onnx", "onnxscript", "onnx-ir")

#: What the released scripts use (SkyworkAI/UniPic, UniPic-2): 50 Euler steps, guidance 3.5, 512×384.
_RELEASED = {"height": 384, "width": 512, "num_inference_steps": 50, "guidance_scale": 3.5}
_RELEASED_EDIT_NEGATIVE = (
    "blurry, low quality, low resolution, distorted, deformed, broken content, missing parts, damaged details, "
    "artifacts, glitch, noise, pixelated, grainy, compression artifacts, bad composition, wrong proportion, "
    "incomplete editing, unfinished, unedited areas."
)
RELEASED_DEFAULTS = {
    "generate": _RELEASED,
    "edit": _RELEASED | {"negative_prompt": _RELEASED_EDIT_NEGATIVE},
}


@dataclass
class _Draft:
    """The bundle as it grows in its temporary folder."""

    folder: Path
    recipe: ExportRecipe
    components: dict[str, Component] = field(default_factory=dict)
    graphs: dict[str, Graph] = field(default_factory=dict)


def write_bundle(
    checkpoint: Checkpoint,
    folder: Path,
    recipe: ExportRecipe,
    components: tuple[str, ...] = COMPONENTS,
    done: Callable[[str], None] = lambda component: None,
) -> Manifest:
    """Export a checkpoint to a bundle folder.

    Args:
        checkpoint: the source, in the published layout.
        folder: must not exist, or be empty.
        recipe: the precision.
        components: which of `COMPONENTS` to export; a bundle without all of them can be compiled, not served.
        done: called with each component's name when it is written.

    Raises:
        RequestError: a component of that name does not exist.
        CheckpointError: the checkpoint lacks a part, or one cannot be loaded.
        OutputError: the folder exists and is not empty, or cannot be written.
        WorkError: the disk is full.
    """
    unknown = sorted(set(components) - set(COMPONENTS))
    if unknown:
        raise RequestError(f"there is no component {unknown[0]!r}", f"use some of {', '.join(COMPONENTS)}")
    _check_parts(checkpoint, components)
    with publishing(folder) as temporary:
        for name in ("graphs", "weights", "host"):
            (temporary / name).mkdir()
        draft = _Draft(temporary, recipe)
        latents, positions, text = _host_files(checkpoint, draft)
        for component in components:
            _write_component(draft, component, _SPECS[component](checkpoint, recipe.dtype, component))
            gc.collect()
            done(component)
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            name=checkpoint.folder.resolve().name,
            variant="kontext",
            source=Source(name=checkpoint.folder.resolve().name, sha256=checkpoint.sha256()),
            recipe=recipe.name,
            components=draft.components,
            graphs=draft.graphs,
            latents=latents,
            positions=positions,
            scheduler="host/scheduler.json",
            text=text,
            defaults=_defaults(checkpoint),
            files=_entries(temporary),
            tools={name: version(name) for name in _TOOLS},
        )
        write_manifest(temporary, manifest)
    return manifest


def _check_parts(checkpoint: Checkpoint, components: tuple[str, ...]) -> None:
    needed = ["transformer" if component == "denoiser" else component for component in components]
    missing = [part for part in MODELS if part in needed and not checkpoint.has(part)]
    if missing:
        raise CheckpointError(
            f"{checkpoint.folder} lacks {', '.join(missing)}",
            "complete the checkpoint, or name the components that are there with --components",
        )


def _write_component(draft: _Draft, component: str, specs: Iterator[GraphSpec]) -> None:
    """Trace a component's graphs, write their weights as one file, then the graphs that point into it."""
    traced = [(spec, trace(spec)) for spec in specs]
    tensors = {name: tensor for _, model in traced for name, tensor in weights_of(model).items()}
    location = f"{component}.safetensors"
    places = write_weights(draft.folder / "weights" / location, tensors)
    for spec, model in traced:
        file = f"graphs/{spec.name}.onnx"
        write_graph(draft.folder / file, model, location, places)
        draft.graphs[spec.name] = Graph(file=file, component=component, inputs=spec.inputs, outputs=spec.outputs)
    draft.components[component] = Component(
        precision=draft.recipe.precision,
        weights=f"weights/{location}",
        parameters=sum(parameter.numel() for spec, _ in traced for parameter in spec.module.parameters()),
    )


def _denoiser(checkpoint: Checkpoint, dtype: torch.dtype, component: str) -> Iterator[GraphSpec]:
    transformer = checkpoint.load_transformer(dtype)
    config = transformer.config
    hidden = config.num_attention_heads * config.attention_head_dim
    values = config.in_channels * config.patch_size**2
    modulation, denoiser = split(transformer)
    width = modulation.modulation.out_features
    del transformer
    yield modulation_spec(modulation, config.pooled_projection_dim, config.joint_attention_dim, hidden, width, dtype)
    yield denoiser_spec(denoiser, values, hidden, width, dtype)


def _vae(checkpoint: Checkpoint, dtype: torch.dtype, component: str) -> Iterator[GraphSpec]:
    vae = checkpoint.load_vae(dtype)
    yield from vae_specs(VaeEncoderGraph(vae), VaeDecoderGraph(vae), vae.config.latent_channels, dtype)


def _clip(checkpoint: Checkpoint, dtype: torch.dtype, component: str) -> Iterator[GraphSpec]:
    model = checkpoint.load_text_encoder(component, dtype)
    config = model.config
    length = config.max_position_embeddings
    yield clip_spec(component, ClipGraph(model).eval(), length, config.hidden_size, config.projection_dim, dtype)


def _t5(checkpoint: Checkpoint, dtype: torch.dtype, component: str) -> Iterator[GraphSpec]:
    model = checkpoint.load_text_encoder(component, dtype)
    length = checkpoint.tokenizers().lengths[2]
    yield t5_spec(T5Graph(model, length).eval(), length, model.config.d_model, dtype)


_SPECS: dict[str, Callable[[Checkpoint, torch.dtype, str], Iterator[GraphSpec]]] = {
    "denoiser": _denoiser,
    "vae": _vae,
    "text_encoder": _clip,
    "text_encoder_2": _clip,
    "text_encoder_3": _t5,
}


def _host_files(checkpoint: Checkpoint, draft: _Draft) -> tuple[Latents, Positions, TextConditioning | None]:
    """Write what the host looks up itself: scheduler settings, tokenizers, position tables."""
    host = draft.folder / "host"
    scheduler = checkpoint.path("scheduler") / "scheduler_config.json"
    write_bytes(host / "scheduler.json", scheduler.read_bytes())
    config = checkpoint.config("transformer")
    vae = checkpoint.config("vae")
    latents = Latents(
        channels=config["in_channels"],
        factor=2 ** (len(vae["block_out_channels"]) - 1),
        patch_size=config["patch_size"],
        scaling_factor=vae["scaling_factor"],
        shift_factor=vae.get("shift_factor") or 0.0,
    )
    tensors = position_tensors(checkpoint.position_table())
    write_bytes(host / "positions.safetensors", save_tensors(tensors))
    positions = Positions(
        file="host/positions.safetensors",
        kind="separable" if "x" in tensors else "table",
        max_size=config["pos_embed_max_size"],
        dim=config["num_attention_heads"] * config["attention_head_dim"],
    )
    return latents, positions, _tokenizers(checkpoint, host, config)


def _tokenizers(checkpoint: Checkpoint, host: Path, config: dict[str, int]) -> TextConditioning | None:
    names = {"tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2", "tokenizer_3": "text_encoder_3"}
    if not all(checkpoint.has(name) for name in names):
        return None
    tokenizers = checkpoint.tokenizers()
    entries = {}
    for (name, graph), length, pad in zip(names.items(), tokenizers.lengths, tokenizers.pad_ids, strict=True):
        file = f"host/{name}.json"
        write_bytes(host / f"{name}.json", (checkpoint.path(name) / "tokenizer.json").read_bytes())
        entries[graph] = TokenizerEntry(file=file, length=length, pad_id=pad)
    return TextConditioning(
        tokenizers=entries,
        context_dim=config["joint_attention_dim"],
        pooled_dim=config["pooled_projection_dim"],
    )


def _defaults(checkpoint: Checkpoint) -> dict[str, TaskDefaults]:
    return {task: TaskDefaults(**values) for task, values in (RELEASED_DEFAULTS | checkpoint.defaults()).items()}


def _entries(folder: Path) -> dict[str, FileEntry]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)
        for path in files
    }
