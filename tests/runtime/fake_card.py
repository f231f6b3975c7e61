"""A machine with a card that is not there: the stand-ins of `fake_gpu` in place, and engines of bundles for it."""

from __future__ import annotations

import sys
import types
from typing import Any

import msgspec
import pytest

from unipic2_edge.runtime import placement as placement_module
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.device import Device
from unipic2_edge.runtime.engine import STORE, Engine, EngineSpec, Shapes, engine_origin, write_engine
from unipic2_edge.runtime.files import sha256_of
from unipic2_edge.runtime.placement import place
from unipic2_edge.runtime.platforms import this_platform

from .fake_gpu import FakeCuda, fake_tensorrt, plan_bytes

CARD = Device("gpu", 0, "a card", "8.9", 10**9, 10**9, "580.65", this_platform())
LIMITS = {"batch": 4, "steps": 50, "tokens": 72, "context": 11, "height": 48, "width": 48, "h": 12, "w": 12}


class Gpu:
    """The fake card and library, and how a bundle is built for them."""

    def __init__(self, cuda: FakeCuda, library: Any) -> None:
        self.cuda, self.library = cuda, library
        self.limits = LIMITS

    def build(self, bundle: Bundle, content: bytes | None = None, **changes: Any) -> None:
        """Put an engine of every graph into the store."""
        (bundle.folder / STORE).mkdir(parents=True, exist_ok=True)
        for graph in bundle.manifest.graphs:
            self._build_one(bundle, graph, content, **changes)

    def _build_one(self, bundle: Bundle, graph: str, content: bytes | None, **changes: Any) -> None:
        profile = {}
        for spec in bundle.graph(graph).inputs:
            low, high = (
                tuple(limit if isinstance(side, str) else side for side, limit in zip(spec.shape, limits, strict=True))
                for limits in (
                    [1 for _ in spec.shape],
                    [self.limits[side] if isinstance(side, str) else 0 for side in spec.shape],
                )
            )
            profile[spec.name] = Shapes(min=low, opt=low, max=high)
        spec = EngineSpec(
            graph=graph,
            compiled_from=engine_origin(bundle, graph),
            precision="float32",
            backend=self.library.__name__,
            backend_version=self.library.__version__,
            capabilities=("8.9",),
            platform=this_platform(),
            profile=profile,
            settings={},
        )
        known = {field: changes[field] for field in changes if hasattr(spec, field)}
        spec = msgspec.structs.replace(spec, **known)
        path = bundle.folder / STORE / f"{spec.name}.plan"
        path.write_bytes(
            content
            or plan_bytes(str(bundle.folder / bundle.graph(graph).file), str((bundle.folder / "weights").resolve()))
        )
        rest = {field: changes[field] for field in changes if field not in known}
        made = {"sha256": sha256_of(path), "bytes": path.stat().st_size, "weights_bytes": 1000, "activation_bytes": 10}
        write_engine(bundle, Engine(spec=spec, file=path.name, **(made | rest)))


def install(monkeypatch: pytest.MonkeyPatch, rtx: bool = True, validity: tuple[int, int] = (0, 0)) -> Gpu:
    """A machine with one card and one of the two libraries, until the test is over."""
    cuda = FakeCuda()
    library = fake_tensorrt(cuda, rtx, validity)
    bindings = types.ModuleType("cuda.bindings")
    bindings.runtime = cuda  # type: ignore[attr-defined]
    for name in ("tensorrt_rtx", "tensorrt"):
        monkeypatch.setitem(sys.modules, name, library if name == library.__name__ else None)
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)  # type: ignore[arg-type]
    monkeypatch.setattr(placement_module, "find_gpus", lambda: (CARD,))
    monkeypatch.setattr(place, "__defaults__", (*place.__defaults__[:2], lambda: (CARD,), None))  # type: ignore[index]
    return Gpu(cuda, library)
