"""A checkpoint served by the runtime's own pipeline with PyTorch underneath: the same host, exact products."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from unipic2_edge.runtime.bundle import Bundle, FileEntry, Manifest
from unipic2_edge.runtime.files import sha256_of
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.runtime.pool import SessionPool
from unipic2_edge.runtime.session import Session
from unipic2_edge.training.checkpoint import Checkpoint

from .components import check_components, components_of, graphs_of
from .graph_specs import GraphSpec
from .host_files import write_host_part
from .recipes import Recipe
from .reference import Observe, Prepare, TorchSession

_RECIPE = Recipe(name="reference")


class Reference:
    """A checkpoint in float32 that the runtime's pipeline can serve, through PyTorch; a context manager.

    Args:
        checkpoint: with all its components.

    Raises:
        CheckpointError: a component is missing.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._components = components_of(checkpoint)
        check_components(checkpoint, self._components)
        self.checkpoint = checkpoint
        self._folder = tempfile.TemporaryDirectory(prefix="unipic2-reference-")
        folder = Path(self._folder.name)
        self._manifest = _manifest(checkpoint, folder)
        self.bundle = Bundle(folder, self._manifest)
        self._specs: dict[str, list[GraphSpec]] = {}

    def __enter__(self) -> Reference:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    @property
    def manifest(self) -> Manifest:
        """What the host knows of the checkpoint."""
        return self._manifest

    def specs(self, component: str) -> list[GraphSpec]:
        """A component's graphs in float32; large ones without their weights."""
        if component not in self._specs:
            self._specs[component] = list(graphs_of(self.checkpoint, component, torch.float32))
        return self._specs[component]

    def pipeline(
        self,
        prepare: Mapping[str, Prepare] | None = None,
        observe: Observe | None = None,
        wrap: Callable[[str, Session], Session] = lambda name, session: session,
    ) -> Pipeline:
        """The runtime's pipeline over PyTorch.

        Args:
            prepare: of some components.
            observe: is shown the stages' values.
            wrap: may put something around a graph's session.
        """
        specs = {spec.name: spec for component in self._components for spec in self.specs(component)}
        graphs = {name: TorchSession(spec).graph for name, spec in specs.items()}
        self._manifest.graphs.update(graphs)

        def opened(name: str) -> Session:
            spec = specs[name]
            return wrap(name, TorchSession(spec, (prepare or {}).get(spec.component), observe))

        return Pipeline(self.bundle, SessionPool(self.bundle, opened, openers=1))


def _manifest(checkpoint: Checkpoint, folder: Path) -> Manifest:
    manifest = write_host_part(checkpoint, folder, _RECIPE)
    for path in sorted(path for path in (folder / "host").rglob("*") if path.is_file()):
        entry = FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)
        manifest.files[path.relative_to(folder).as_posix()] = entry
    return manifest
