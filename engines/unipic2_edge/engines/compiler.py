"""What a compiler is: one graph of a bundle in, one engine file out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.engine import EngineSpec

#: Called with a phase's name and how much of it is done, 0…1.
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Compiled:
    """What the compiler says an engine needs on the device, in bytes; none where it does not say."""

    weights_bytes: int | None = None
    activation_bytes: int | None = None


class Compiler(Protocol):
    """Compiles graphs with one backend.

    Attributes:
        suffix: of engine files.
        isolated: whether a graph is compiled in a process of its own, which gives all its memory back and may
            die without taking anything along.
    """

    suffix: str
    isolated: bool

    def compile(self, bundle: Bundle, spec: EngineSpec, output: Path, progress: Progress) -> Compiled:
        """Compile `spec.graph` into the file `output`.

        Raises:
            BundleError: the bundle is damaged.
            WorkError: the backend refused the graph, or the disk is full.
        """
        ...


def find_compiler(backend: str) -> Compiler:
    """The compiler of a backend (the name of its Python module)."""
    if backend == "onnxruntime":
        from .cpu import OnnxRuntimeCompiler

        return OnnxRuntimeCompiler()
    if backend == "openvino":
        from .openvino import OpenVINOCompiler

        return OpenVINOCompiler()
    from .tensorrt import TensorRTCompiler

    return TensorRTCompiler()
