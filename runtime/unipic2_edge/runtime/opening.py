"""Opening a bundle's graphs where they were placed: the one place that knows the adapters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .bundle import Bundle
from .engine import Engine
from .placement import Placement, place
from .pool import SessionPool
from .session import Session

if TYPE_CHECKING:
    from .cuda import Cuda
    from .device_buffers import Arena


def open_pool(bundle: Bundle, placement: Placement, threads: int | None, memory: int | None) -> SessionPool:
    """The sessions of a bundle as placed.

    Args:
        bundle: the opened bundle.
        placement: where its graphs run.
        threads: CPU threads of each session.
        memory: bytes of device memory that may be used; None is what is free.

    Raises:
        RequestError: the graphs do not fit even one after another.
    """
    plan = placement.memory(memory)
    if plan is None:
        return SessionPool(bundle, _opener(bundle, placement, threads))
    # One thread opens: CUDA's current device and the arena belong to one graph at a time.
    return SessionPool(bundle, _opener(bundle, placement, threads), placement.turns(plan), openers=1)


def open_session(bundle: Bundle, name: str, device: str = "auto", threads: int | None = None) -> Session:
    """Open one graph of a bundle.

    Raises:
        RequestError, MissingDependencyError: see `place`.
        BundleError, WorkError: see the adapters.
    """
    return _opener(bundle, place(bundle, device), threads)(name)


def open_on_processor(bundle: Bundle, engine: Engine, threads: int | None = None) -> Session:
    """Open an engine of the `cpu` target, whether or not the target's record names it.

    Raises:
        BundleError, MissingDependencyError, WorkError: see the adapters.
    """
    if engine.spec.backend == "openvino":
        from .openvino_session import OpenVINOSession

        return OpenVINOSession(bundle, engine, threads)
    from .onnx_session import OnnxRuntimeSession

    return OnnxRuntimeSession(bundle, engine.spec.graph, threads, engine=engine)


def _opener(bundle: Bundle, placement: Placement, threads: int | None) -> Callable[[str], Session]:
    """Opens a graph through the adapter it was placed on; the GPU is touched when the first one is opened."""
    gpu: list[tuple[Cuda, Arena]] = []

    def open_one(name: str) -> Session:
        choice = placement.choices.get(name)
        if choice is None:
            from .onnx_session import OnnxRuntimeSession

            index = placement.device.index if placement.provider == "cuda" else None
            return OnnxRuntimeSession(bundle, name, threads, index)
        if placement.device.kind == "cpu":
            return open_on_processor(bundle, choice.engine, threads)
        from .cuda import Cuda
        from .device_buffers import Arena
        from .tensorrt_session import TensorRTSession

        if not gpu:
            cuda = Cuda(placement.device.index)
            gpu.append((cuda, Arena(cuda)))
        return TensorRTSession(bundle, choice.engine, *gpu[0])

    return open_one
