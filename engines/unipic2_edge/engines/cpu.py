"""Builds the `cpu` target: ONNX Runtime's optimised form of every graph, cached beside the bundle.

Optimising a graph costs more than running the small model's first step. The optimised graph stores only what
optimisation made new; everything that it left unchanged keeps pointing at the bundle's own weights files.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from unipic2_edge.runtime.bundle import Bundle, FileEntry
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

#: Above this many bytes of weights a component's graphs are served as exported: the optimised copy would cost
#: as much disk and memory again, and optimising saves milliseconds beside minutes of arithmetic.
LARGEST_OPTIMISED = 512_000_000


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
                compiled = _compile(runtime, bundle, name, folder, threads)
                if compiled is not None:
                    graphs[name] = compiled
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
    return {"graph_optimization": "all", "execution_mode": "sequential", "threads": threads}


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
        for name in record.graphs:
            read_engine(bundle, record, name)
    except BundleError as error:
        logger.warning("building again: %s", error.problem)
        return None
    return record


def _compile(runtime: Any, bundle: Bundle, name: str, folder: Path, threads: int | None) -> EngineGraph | None:
    """Optimise one graph into `folder`; nothing for a component too large to be worth it."""
    graph = bundle.graph(name)
    component = bundle.manifest.components[graph.component]
    if bundle.manifest.files[component.weights].bytes > LARGEST_OPTIMISED:
        logger.info("%s is served as exported: its weights exceed %d bytes", name, LARGEST_OPTIMISED)
        return None
    path, data = folder / f"{name}.onnx", folder / f"{name}.weights"
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads or 0
    options.optimized_model_filepath = str(path)
    weights = bundle.weights(name)
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(weights.parent.resolve())
    )
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", data.name)
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    try:
        runtime.InferenceSession(bundle.read(graph.file), options, providers=["CPUExecutionProvider"])
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
        data={data.name: FileEntry(sha256=sha256_of(data), bytes=data.stat().st_size)} if data.exists() else {},
    )
