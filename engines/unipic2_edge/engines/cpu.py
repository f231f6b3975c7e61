"""Builds the `cpu` target: ONNX Runtime's optimised form of every graph, cached beside the bundle.

Optimising the small model's seven graphs takes 0.1 s, as long as two of its steps. An optimised graph keeps
pointing at the bundle's own weights files and stores only what optimisation made new (kilobytes), at any size
of model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.engine import (
    ENGINES,
    CompiledFrom,
    EngineGraph,
    EngineRecord,
    engine_folder,
    read_engine,
    read_engine_record,
    write_engine_record,
)
from unipic2_edge.runtime.errors import BundleError, RequestError, WorkError
from unipic2_edge.runtime.files import replacing_folder, sha256_of
from unipic2_edge.runtime.session import import_onnxruntime

from .targets import Target

logger = logging.getLogger(__name__)

#: Left out: it rewrites convolution weights for one processor's vector width, so that the engine would be wrong
#: on another one, and stores those rewritten weights a second time.
UNPORTABLE = ("NchwcTransformer",)


@dataclass(frozen=True)
class Build:
    """What a build did: the record, and whether it was already there."""

    record: EngineRecord
    cached: bool


def build_cpu(
    bundle: Bundle,
    target: Target,
    threads: int | None = None,
    done: Callable[[str], None] = lambda graph: None,
) -> Build:
    """Build a bundle for the CPU, or find that it is built.

    Engines that are stale (another graph, other weights, another ONNX Runtime, other settings) or damaged are
    replaced. Several processes asking at once build once. A kill leaves the old engines or the new ones.

    Raises:
        RequestError: a component is in a precision the CPU does not run.
        BundleError: the bundle is damaged.
        WorkError: ONNX Runtime refused a graph, or the disk is full.
    """
    _check_precisions(bundle, target)
    runtime = import_onnxruntime()
    (bundle.folder / ENGINES).mkdir(exist_ok=True)
    with FileLock(bundle.folder / ENGINES / f".{target.name}.lock"):
        wanted = _settings(threads)
        record = _standing(bundle, target.name, runtime.__version__, wanted)
        if record is not None:
            return Build(record, cached=True)
        with replacing_folder(engine_folder(bundle, target.name)) as folder:
            graphs = {}
            for name in bundle.manifest.graphs:
                graphs[name] = _compile(runtime, bundle, name, folder, threads)
                done(name)
            record = EngineRecord(
                target=target.name,
                backend="onnxruntime",
                backend_version=runtime.__version__,
                settings=wanted,
                graphs=graphs,
            )
            write_engine_record(folder, record)
    return Build(record, cached=False)


def _settings(threads: int | None) -> dict[str, str | int | float | bool | None]:
    return {
        "graph_optimization": "all",
        "without": ", ".join(UNPORTABLE),
        "execution_mode": "sequential",
        "threads": threads,
    }


def _check_precisions(bundle: Bundle, target: Target) -> None:
    for name, component in bundle.manifest.components.items():
        if component.precision not in target.precisions:
            raise RequestError(
                f"{name} is in {component.precision}, which {target.name} does not run",
                f"export the checkpoint with a recipe in {' or '.join(target.precisions)}",
            )


def _standing(bundle: Bundle, target: str, version: str, settings: dict[str, Any]) -> EngineRecord | None:
    """The engines that stand, if they are whole and were built from this bundle by this version with these settings."""
    try:
        record = read_engine_record(bundle, target)
        if record is None or (record.backend_version, record.settings) != (version, settings):
            return None
        if set(record.graphs) != set(bundle.manifest.graphs):
            return None
        for name in record.graphs:
            read_engine(bundle, record, name)
    except BundleError as error:
        logger.warning("building again: %s", error.problem)
        return None
    return record


def _compile(runtime: Any, bundle: Bundle, name: str, folder: Path, threads: int | None) -> EngineGraph:
    """Optimise one graph into `folder`."""
    graph = bundle.graph(name)
    model, weights = bundle.read(graph.file), bundle.weights(name)
    path = folder / f"{name}.onnx"
    options = _options(runtime, weights.parent, path, threads)
    try:
        runtime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(UNPORTABLE)
        )
    except Exception as error:  # onnxruntime's classes share no base but Exception
        raise WorkError(
            f"ONNX Runtime could not compile {name}: {str(error).splitlines()[0]}",
            "export the checkpoint again",
        ) from error
    files, components = bundle.manifest.files, bundle.manifest.components
    return EngineGraph(
        file=path.name,
        sha256=sha256_of(path),
        bytes=path.stat().st_size,
        compiled_from=CompiledFrom(
            graph=files[graph.file].sha256, weights=files[components[graph.component].weights].sha256
        ),
    )


def _options(runtime: Any, weights: Path, output: Path, threads: int | None) -> Any:
    """Session options that read external data from `weights` and write the optimised graph to `output`."""
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads or 0
    options.optimized_model_filepath = str(output)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights.resolve()))
    # Nothing is run here: packing the weights for multiplication would only double the memory.
    options.add_session_config_entry("session.disable_prepacking", "1")
    return options
