"""The bundle: the folder that export writes, engines extends and the runtime reads.

    bundle.json     the manifest below, written last
    graphs/*.onnx   graphs without weights; external data is named by bare file name and lies in weights/
    weights/*       one safetensors file per component, shared by every graph of that component
    host/*          what the host looks up itself: tokenizers, position tables, scheduler settings
    engines/<target>/  compiled engines and `engine.json`, the record of what each was compiled from
    quality.json    the measured drift of this bundle from its checkpoint

Nothing in the folder is opened before its SHA-256 equals the manifest's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from .errors import BundleError
from .files import sha256_of, write_bytes

FORMAT_VERSION = 1
MANIFEST = "bundle.json"

Variant = Literal["kontext", "metaquery"]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of everything in the manifest: immutable, and strict about unknown fields."""


class FileEntry(Record):
    """One file of the bundle: its size and the SHA-256 of its bytes."""

    sha256: str
    bytes: int


class Source(Record):
    """The checkpoint a bundle was made from: its name and the hash over its weights and configs."""

    name: str
    sha256: str


class TensorSpec(Record):
    """One input or output of a graph; a named dimension is dynamic."""

    name: str
    dtype: str  # numpy's name: float32, float16, bfloat16, int64
    shape: tuple[int | str, ...]


class Graph(Record):
    """One ONNX graph: where it stands, whose weights it reads, and its signature."""

    file: str
    component: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Component(Record):
    """One part of the model (denoiser, vae, text_encoder, …): its precision and its weights."""

    precision: str
    weights: str
    parameters: int


class Latents(Record):
    """The latent space: z = (encoded − shift) · scaling, `factor` image pixels per latent pixel."""

    channels: int
    factor: int
    patch_size: int
    scaling_factor: float
    shift_factor: float


class Positions(Record):
    """The position table on the host: `separable` stores x [max, D/2] and y [max, D/2], `table` [max, max, D]."""

    file: str
    kind: Literal["separable", "table"]
    max_size: int
    dim: int


class TokenizerEntry(Record):
    """One tokenizer.json with its fixed length in tokens and its pad id."""

    file: str
    length: int
    pad_id: int


class TextConditioning(Record):
    """How CLIP, CLIP with projection and T5 make context [B, L, dim] and pooled [B, pooled_dim] (SD3 §text)."""

    tokenizers: dict[str, TokenizerEntry]  # keyed by graph: text_encoder, text_encoder_2, text_encoder_3
    context_dim: int
    pooled_dim: int


class TaskDefaults(Record):
    """What a task uses when the caller says nothing."""

    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    negative_prompt: str = ""


class Manifest(Record):
    """`bundle.json`: everything the runtime must know, and the hash of everything it will open."""

    format_version: int
    name: str
    variant: Variant
    source: Source
    recipe: str
    components: dict[str, Component]
    graphs: dict[str, Graph]
    latents: Latents
    positions: Positions
    scheduler: str
    text: TextConditioning | None
    defaults: dict[str, TaskDefaults]  # keyed by task: generate, edit
    files: dict[str, FileEntry]
    tools: dict[str, str]
