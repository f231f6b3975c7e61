"""Which bundle, and which engines of it, a number belongs to: names and hashes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unipic2_edge.runtime.bundle import MANIFEST, Bundle
from unipic2_edge.runtime.engine import read_engine, read_target
from unipic2_edge.runtime.files import sha256_of
from unipic2_edge.runtime.pipeline import Pipeline


def bundle_labels(folders: Sequence[Path]) -> dict[str, Path]:
    """A short name for each bundle: its checkpoint's and its recipe's, with the folder's where that is not enough.

    Raises:
        BundleError: a folder is no bundle.
    """
    manifests = {folder: Bundle(folder).manifest for folder in folders}
    plain = {folder: f"{manifest.name} {manifest.recipe}" for folder, manifest in manifests.items()}
    names = list(plain.values())
    return {label if names.count(label) == 1 else f"{label} ({folder.name})": folder for folder, label in plain.items()}


def bundle_identity(pipeline: Pipeline) -> dict[str, object]:
    """A bundle's hashes, and the engine that runs each graph: backend and SHA-256, the graph's own where there is none.

    Raises:
        BundleError: the bundle is damaged.
    """
    bundle, manifest = pipeline.bundle, pipeline.manifest
    return {
        "name": manifest.name,
        "recipe": manifest.recipe,
        "source": manifest.source.sha256,
        "manifest": sha256_of(bundle.folder / MANIFEST),
        "engines": _engines(pipeline),
        "placement": pipeline.explain(),
    }


def _engines(pipeline: Pipeline) -> dict[str, dict[str, str]]:
    """Graph → backend, and the hash of what it opens."""
    bundle, placement = pipeline.bundle, pipeline.placement
    record = read_target(bundle, "cpu") if placement is not None and placement.device.kind == "cpu" else None
    found = {}
    for graph in bundle.manifest.graphs:
        choice = None if placement is None else placement.choices.get(graph)
        if choice is not None:
            engine = choice.engine
        elif record is not None and graph in record.engines:
            engine = read_engine(bundle, record.engines[graph])
        else:
            plain = bundle.manifest.files[bundle.graph(graph).file]
            found[graph] = {"backend": "onnxruntime", "sha256": plain.sha256}
            continue
        found[graph] = {"backend": engine.spec.backend, "sha256": engine.sha256}
    return found
