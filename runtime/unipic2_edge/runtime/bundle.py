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

import threading
from pathlib import Path
from typing import Literal

import msgspec

from .conditioning_record import QueryConditioning as QueryConditioning
from .conditioning_record import Record as Record
from .conditioning_record import TextConditioning as TextConditioning
from .conditioning_record import TokenizerEntry as TokenizerEntry
from .errors import BundleError
from .files import write_bytes
from .verification import read_plain_file, verified_bytes, verified_path

FORMAT_VERSION = 1
MANIFEST = "bundle.json"
WEIGHTS = "weights"

Variant = Literal["kontext", "metaquery"]


class FileEntry(Record, frozen=True):
    """One file of the bundle: its size and the SHA-256 of its bytes."""

    sha256: str
    bytes: int


class Source(Record, frozen=True):
    """The checkpoint a bundle was made from: its name and the hash over its weights and configs."""

    name: str
    sha256: str


class TensorSpec(Record, frozen=True):
    """One input or output of a graph; a named dimension is dynamic."""

    name: str
    dtype: str  # numpy's name: float32, float16, bfloat16, int64
    shape: tuple[int | str, ...]


class Graph(Record, frozen=True):
    """One ONNX graph: where it stands, whose weights it reads, and its signature."""

    file: str
    component: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Component(Record, frozen=True):
    """One part of the model (denoiser, vae, text_encoder, …): its precision and its weights.

    `formats` are those of its quantised products, within the precision: int8, fp8, int4, nvfp4.
    """

    precision: str
    weights: str
    parameters: int
    formats: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Precision and formats for people, as in "fp8 in bfloat16"."""
        return f"{'+'.join(self.formats)} in {self.precision}" if self.formats else self.precision


class Latents(Record, frozen=True):
    """The latent space: z = (encoded − shift) · scaling, `factor` image pixels per latent pixel."""

    channels: int
    factor: int
    patch_size: int
    scaling_factor: float
    shift_factor: float


class Positions(Record, frozen=True):
    """The position table on the host: `separable` stores x and y [max, D/2], `table` [max, max, D]."""

    file: str
    kind: Literal["separable", "table"]
    max_size: int
    dim: int


class TaskDefaults(Record, frozen=True):
    """What a task uses when the caller says nothing."""

    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    negative_prompt: str = ""


class Manifest(Record, frozen=True):
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
    query: QueryConditioning | None = None


class _Header(msgspec.Struct):
    """The one field that tells a bundle from foreign JSON, and its version, before strict decoding."""

    format_version: int


class Bundle:
    """A bundle opened for reading: its manifest, and its files, handed out after their hashes were checked.

    Args:
        folder: the bundle's folder.
        manifest: instead of the one that stands there, for a bundle that is being made.

    Raises:
        BundleError: not a folder, no manifest, foreign or damaged manifest, another format version, or a
            manifest that names files, components or graphs it does not describe.
    """

    def __init__(self, folder: Path | str, manifest: Manifest | None = None) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder) if manifest is None else manifest
        self._verified: set[str] = set()
        self._locks: dict[str, threading.Lock] = {name: threading.Lock() for name in self.manifest.files}

    def path(self, relative: str) -> Path:
        """The path of one of the bundle's files, once its bytes are known to be those of the manifest.

        Each file is hashed at most once per opened bundle; safe to call from several threads.

        Raises:
            BundleError: not in the manifest, missing, not a plain file of its own, or its hash differs.
        """
        entry = self._entry(relative)
        with self._locks[relative]:
            if relative in self._verified:
                return self.folder / relative
            path = verified_path(self.folder, relative, entry.sha256, entry.bytes)
            self._verified.add(relative)
            return path

    def read(self, relative: str) -> bytes:
        """The bytes of one of the bundle's files; what is returned is what was hashed.

        Raises:
            BundleError: as `path`.
        """
        entry = self._entry(relative)
        return verified_bytes(self.folder, relative, entry.sha256, entry.bytes)

    def graph(self, name: str) -> Graph:
        """The signature of a graph.

        Raises:
            BundleError: the bundle was exported without it.
        """
        try:
            return self.manifest.graphs[name]
        except KeyError:
            raise BundleError(
                f"the bundle {self.folder} has no graph {name!r}",
                "export the checkpoint again with all its components",
            ) from None

    def weights(self, graph: str) -> Path:
        """The verified weights file of the component a graph belongs to."""
        return self.path(self.manifest.components[self.graph(graph).component].weights)

    def _entry(self, relative: str) -> FileEntry:
        try:
            return self.manifest.files[relative]
        except KeyError:
            raise BundleError(
                f"{relative} is not listed in {self.folder / MANIFEST}", "export the checkpoint again"
            ) from None


def read_manifest(folder: Path) -> Manifest:
    """Read and check `bundle.json`.

    Raises:
        BundleError: see `Bundle`.
    """
    if not folder.is_dir():
        what = "is a file, not a bundle folder" if folder.exists() else "does not exist"
        raise BundleError(f"{folder} {what}", "give the folder that `unipic2-edge export` wrote")
    if not (folder / MANIFEST).is_file():
        raise BundleError(
            f"{folder} is not a bundle: it has no {MANIFEST}",
            "give the folder that `unipic2-edge export` wrote",
        )
    data = read_plain_file(folder, MANIFEST)
    _check_version(folder, data)
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleError(f"{folder / MANIFEST} is damaged: {error}", "export the checkpoint again") from error
    _check_references(folder, manifest)
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `bundle.json` atomically; export calls this last.

    Raises:
        BundleError: the manifest names something that it does not describe.
        OutputError: the folder cannot be written to.
        WorkError: the disk is full.
    """
    _check_references(folder, manifest)
    write_bytes(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")


def _check_version(folder: Path, data: bytes) -> None:
    try:
        version = msgspec.json.decode(data, type=_Header).format_version
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleError(
            f"{folder / MANIFEST} is not a bundle manifest: {error}",
            "give the folder that `unipic2-edge export` wrote, or export the checkpoint again",
        ) from error
    if version != FORMAT_VERSION:
        newer = version > FORMAT_VERSION
        raise BundleError(
            f"{folder} has bundle format {version}; this version reads format {FORMAT_VERSION}",
            "update unipic2-edge" if newer else "export the checkpoint again",
        )


def _check_references(folder: Path, manifest: Manifest) -> None:
    """Refuse a manifest that points at files, components or graphs that it does not describe."""
    named = [graph.file for graph in manifest.graphs.values()]
    named += [component.weights for component in manifest.components.values()]
    named += [manifest.positions.file, manifest.scheduler]
    named += [entry.file for entry in manifest.text.tokenizers.values()] if manifest.text else []
    named += manifest.query.files if manifest.query else []
    missing = sorted(set(named) - set(manifest.files))
    orphans = sorted({graph.component for graph in manifest.graphs.values()} - set(manifest.components))
    if missing or orphans:
        what = f"files {', '.join(missing)}" if missing else f"components {', '.join(orphans)}"
        raise BundleError(
            f"{folder / MANIFEST} is damaged: it uses {what} without listing them",
            "export the checkpoint again",
        )
