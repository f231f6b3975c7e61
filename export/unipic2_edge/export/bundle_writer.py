"""Writes a bundle from a checkpoint: component by component, manifest last, the folder whole or not at all."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import onnx_ir as ir

from unipic2_edge.runtime.bundle import Component, FileEntry, Graph, Manifest, Source, write_manifest
from unipic2_edge.runtime.errors import CheckpointError, RecipeError
from unipic2_edge.runtime.files import publishing, sha256_of, write_bytes
from unipic2_edge.training.checkpoint import Checkpoint

from .assembly import assemble, weights_of, write_graph
from .components import check_components, components_of, graphs_of
from .host_files import write_host_part
from .quantization.fake import ComponentPlan
from .quantization.qdq import quantize_graph
from .recipes import ComponentRecipe, Recipe
from .weights import write_weights

RECIPE = "recipe.json"
_EXACT: Mapping[str, ComponentPlan] = {}


def write_bundle(
    checkpoint: Checkpoint,
    folder: Path,
    recipe: Recipe,
    components: tuple[str, ...] = (),
    done: Callable[[str], None] = lambda component: None,
    plans: Mapping[str, ComponentPlan] = _EXACT,
    calibration: str | None = None,
    judge: Callable[[Path], None] | None = None,
) -> Manifest:
    """Export a checkpoint to a bundle folder.

    Args:
        checkpoint: the source, in the published layout.
        folder: must not exist, or be empty.
        recipe: precisions and formats.
        components: which of `components_of(checkpoint)` to export, all where none is named; a bundle
            without all of them can be compiled, not served.
        done: called with each component's name when it is written.
        plans: of the components that are quantised.
        calibration: the hash of what they were calibrated on.
        judge: called with the finished folder before it gets its name; what it raises leaves nothing behind.

    Raises:
        RequestError: a component of that name does not exist.
        CheckpointError: the checkpoint lacks a part, or one cannot be loaded.
        OutputError: the folder exists and is not empty, or cannot be written.
        WorkError: the disk is full.
    """
    components = components or components_of(checkpoint)
    check_components(checkpoint, components)
    with publishing(folder) as temporary:
        for subfolder in ("graphs", "weights", "host"):
            (temporary / subfolder).mkdir()
        source = _SourceHash(checkpoint)  # tracing leaves a core to it
        manifest = write_host_part(checkpoint, temporary, recipe)
        write_bytes(temporary / RECIPE, _recipe_record(checkpoint, recipe, calibration))
        for component in components:
            plan = plans.get(component)
            _write_component(checkpoint, component, recipe.of(component), plan, temporary, manifest)
            gc.collect()  # the part is let go before the next one is loaded
            done(component)
        files = _entries(temporary, manifest.files)
        manifest = msgspec.structs.replace(manifest, source=source.result(), files=files)
        write_manifest(temporary, manifest)
        if judge is not None:
            judge(temporary)
    return manifest


def _recipe_record(checkpoint: Checkpoint, recipe: Recipe, calibration: str | None) -> bytes:
    """What the bundle was made by: the whole recipe, the hash of what was calibrated on, and the LoRAs merged."""
    loras = [{"name": lora.name, "scale": lora.scale, "sha256": lora.sha256} for lora in checkpoint.loras]
    record = {"recipe": recipe.to_dict(), "calibration_sha256": calibration, "loras": loras}
    return (json.dumps(record, indent=2) + "\n").encode()


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
        return Source(name=self._checkpoint.name, sha256=self._sha256)

    def _run(self) -> None:
        try:
            self._sha256 = self._checkpoint.sha256()
        except OSError as error:
            self._error = error


def _write_component(
    checkpoint: Checkpoint,
    component: str,
    recipe: ComponentRecipe,
    plan: ComponentPlan | None,
    folder: Path,
    manifest: Manifest,
) -> None:
    """Trace a component's graphs, write their weights as one file, then the graphs that point into it."""
    traced = [(spec, assemble(spec)) for spec in graphs_of(checkpoint, component, recipe.dtype)]
    modules = [stage.module for spec, _ in traced if not spec.weights for stage in spec.stages]
    parameters = sum(parameter.numel() for module in modules for parameter in module.parameters())
    if plan is not None:
        _quantize([model for _, model in traced], plan)
    tensors = {name: tensor for _, model in traced for name, tensor in weights_of(model).items()}
    location = f"{component}.safetensors"
    written = write_weights(folder / "weights" / location, tensors)
    manifest.files[f"weights/{location}"] = written.entry
    for spec, model in traced:
        file = f"graphs/{spec.name}.onnx"
        write_graph(folder / file, model, location, written.places)
        manifest.graphs[spec.name] = Graph(file=file, component=component, inputs=spec.inputs, outputs=spec.outputs)
    manifest.components[component] = Component(
        precision=recipe.precision,
        weights=f"weights/{location}",
        parameters=parameters,
        formats=() if plan is None else plan.formats,
    )


def _quantize(models: list[ir.Model], plan: ComponentPlan) -> None:
    """Quantise a component's graphs.

    Raises:
        RecipeError: a layer of the plan is not a plain product in any graph.
    """
    found = {name for model in models for name in quantize_graph(model, plan)}
    left = sorted((set(plan.layers) | set(plan.attention)) - found)
    if left:
        raise RecipeError(
            f"{left[0]} cannot be quantised: in its graph it is no product with one matrix",
            "leave it out by a rule of its own before the one that takes it in",
        )


def _entries(folder: Path, known: Mapping[str, FileEntry]) -> dict[str, FileEntry]:
    """Every file's size and hash, known ones as they were hashed while being written."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: known.get(name) or FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)
        for name, path in files.items()
    }
