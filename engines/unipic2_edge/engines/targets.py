"""The targets a bundle can be built for. A table: what a target is, not how it is built."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from unipic2_edge.runtime.errors import RequestError


@dataclass(frozen=True)
class Target:
    """One kind of device.

    Attributes:
        name: as given to `--target`.
        description: for people.
        backends: what can serve it, the preferred one first.
        precisions: component precisions that run on it.
        source: where the facts are from.
    """

    name: str
    description: str
    backends: tuple[str, ...]
    precisions: tuple[str, ...]
    source: str

    def to_dict(self) -> dict[str, object]:
        """JSON-ready fields."""
        return asdict(self)


TARGETS = {
    target.name: target
    for target in (
        Target(
            name="cpu",
            description="any x86-64 or aarch64 processor",
            backends=("onnxruntime",),
            # ONNX Runtime's CPU provider has no bfloat16 MatMul, and emulates float16 ones more slowly than float32.
            precisions=("float32",),
            source="ONNX Runtime operator kernels: CPU execution provider",
        ),
    )
}


def find_target(name: str) -> Target:
    """A target by name.

    Raises:
        RequestError: there is none of that name.
    """
    if name not in TARGETS:
        raise RequestError(f"there is no target {name!r}", f"use one of {', '.join(TARGETS)}")
    return TARGETS[name]
