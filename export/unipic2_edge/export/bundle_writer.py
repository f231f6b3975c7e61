"""Writes a bundle from a checkpoint: component by component, manifest last, the folder whole or not at all."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import msgspec

from unipic2_edge.runtime.bundle import FORMAT_VERSION, Component, FileEntry, Graph, Manifest, Source, write_manifest
from unipic2_edge.runtime.errors import CheckpointError
from unipic2_edge.runtime.files import publishing, sha256_of
from unipic2_edge.training.checkpoint import Checkpoint

from .assembly import assemble, weights_of, write_graph
from .components import COMPONENTS, check_components, graphs_of
from .host_files import describe_latents, task_defaults, write_positions, write_scheduler, write_tokenizers
from .recipes import ExportRecipe
from .weights import write_weights

_TOOLS = ("unipic2-edge", "torch", "diffusers", "transformers", "onnx", "onnxscript", "onnx-ir")


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
    check_components(checkpoint, components)
    with publishing(folder) as temporary:
        for subfolder in ("graphs", "weights", "host"):
            (temporary / subfolder).mkdir()
        source = _SourceHash(checkpoint)  # tracing leaves a core to it
        manifest = _host_part(checkpoint, temporary, recipe)
        for component in components:
            _write_component(checkpoint, component, recipe, temporary, manifest)
            gc.collect()  # the part is let go before the next one is loaded
            done(component)
        files = _entries(temporary, manifest.files)
        manifest = msgspec.structs.replace(manifest, source=source.result(), files=files)
        write_manifest(temporary, manifest)
    return manifest


class _SourceHash:
    """The checkpoint's hash, computed beside other work; a process that ends does not wait for it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._sha256 = ""
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def result(self) -> Source:
        """The checkpoint's name and hash, once it is there.

        Raises:
            CheckpointError: a file can no longer be read.
        """
        self._thread.join()
        if self._error is not None:
            raise CheckpointError(
                f"{self._checkpoint.folder} cannot be read: {self._error}", "complete the checkpoint"
            ) from self._error
        return Source(name=self._checkpoint.folder.resolve().name, sha256=self._sha256)

    def _run(self) -> None:
        try:
            self._sha256 = self._checkpoint.sha256()
        except OSError as error:
            self._error = error


def _host_part(checkpoint: Checkpoint, folder: Path, recipe: ExportRecipe) -> Manifest:
    """Write the host's files; the manifest without components, graphs, file entries and the source's hash."""
    name = checkpoint.folder.resolve().name
    return Manifest(
        format_version=FORMAT_VERSION,
        name=name,
        variant="kontext",
        source=Source(name=name, sha256=""),
        recipe=recipe.name,
        components={},
        graphs={},
        latents=describe_latents(checkpoint),
        positions=write_positions(checkpoint, folder),
        scheduler=write_scheduler(checkpoint, folder),
        text=write_tokenizers(checkpoint, folder),
        defaults=task_defaults(checkpoint),
        files={},
        tools={tool: version(tool) for tool in _TOOLS},
    )


def _write_component(
    checkpoint: Checkpoint, component: str, recipe: ExportRecipe, folder: Path, manifest: Manifest
) -> None:
    """Trace a component's graphs, write their weights as one file, then the graphs that point into it."""
    traced = [(spec, assemble(spec)) for spec in graphs_of(checkpoint, component, recipe.dtype)]
    tensors = {name: tensor for _, model in traced for name, tensor in weights_of(model).items()}
    location = f"{component}.safetensors"
    written = write_weights(folder / "weights" / location, tensors)
    manifest.files[f"weights/{location}"] = written.entry
    for spec, model in traced:
        file = f"graphs/{spec.name}.onnx"
        write_graph(folder / file, model, location, written.places)
        manifest.graphs[spec.name] = Graph(file=file, component=component, inputs=spec.inputs, outputs=spec.outputs)
    modules = [stage.module for spec, _ in traced for stage in spec.stages]
    manifest.components[component] = Component(
        precision=recipe.precision,
        weights=f"weights/{location}",
        parameters=sum(parameter.numel() for module in modules for parameter in module.parameters()),
    )


def _entries(folder: Path, known: Mapping[str, FileEntry]) -> dict[str, FileEntry]:
    """Every file's size and hash, known ones as they were hashed while being written."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: known.get(name) or FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)
        for name, path in files.items()
    }
