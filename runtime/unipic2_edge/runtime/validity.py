"""Whether a plan fits this system, asked of the library before it is opened, and what to do if not."""

from __future__ import annotations

from typing import Any, BinaryIO

from .engine import AGAIN, EngineSpec
from .errors import BundleError, MissingDependencyError, UserError, WorkError

#: TensorRT-RTX's diagnostic flags in the order in which they are told: (error, what is wrong, how to mend it).
_EXPLAINED: dict[str, tuple[type[UserError], str, str]] = {
    "VERSION_MISMATCH": (
        MissingDependencyError,
        "another release of the library built it",
        AGAIN,
    ),
    "MALFORMED_ENGINE": (
        BundleError,
        "it is damaged, or no engine of this library",
        AGAIN,
    ),
    "OLD_CUDA_DRIVER": (MissingDependencyError, "the NVIDIA driver is too old for it", "update the driver"),
    "OLD_CUDA_RUNTIME": (
        MissingDependencyError,
        "the CUDA runtime is too old for it",
        'update it: pip install --upgrade "unipic2-edge[rtx]"',
    ),
    "UNSUPPORTED_CC": (
        MissingDependencyError,
        "it holds no code for this card",
        "build it for this card: unipic2-edge build BUNDLE --target auto",
    ),
    "INSUFFICIENT_GPU_MEMORY": (
        WorkError,
        "the GPU has too little memory for it",
        "close other programs, give --memory, or build for smaller pictures (--max)",
    ),
    "CUDA_ERROR": (
        MissingDependencyError,
        "the GPU does not answer",
        "see that the NVIDIA driver is installed (unipic2-edge doctor), or use --device cpu",
    ),
}


def check_validity(library: Any, runtime: Any, plan: BinaryIO, spec: EngineSpec) -> None:
    """Ask TensorRT-RTX whether a plan's header fits this system; TensorRT has no such question.

    Raises:
        MissingDependencyError: library, driver, CUDA or card do not fit.
        BundleError: it is no plan.
        WorkError: the GPU has too little memory.
    """
    if not hasattr(runtime, "get_engine_validity"):
        return
    plan.seek(0)
    validity, flags = runtime.get_engine_validity(plan.read(max(int(runtime.engine_header_size), 4096)))
    if validity != library.EngineValidity.INVALID:
        return
    kind, problem, mend = explain(library, int(flags))
    raise kind(f"the engine of {spec.graph} does not fit: {problem}", mend)


def explain(library: Any, flags: int) -> tuple[type[UserError], str, str]:
    """The first diagnostic that is set, in words."""
    members = library.EngineInvalidityDiagnostics.__members__
    for name, explained in _EXPLAINED.items():
        if name in members and flags & int(members[name]):
            return explained
    return MissingDependencyError, "the library does not say why", "see: unipic2-edge doctor"
