"""The targets a bundle can be built for. A table: what a target is, not how it is built.

TensorRT-RTX's precisions are those that its compiler accepts (tests compile them); TensorRT's, whose compiler needs
the card, those of NVIDIA's TensorRT support matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from unipic2_edge.runtime.device import Device, find_gpus
from unipic2_edge.runtime.errors import RequestError

from . import cards
from .cards import Card

AUTO = "auto"

_X86 = ("linux-x86_64", "windows-x86_64")
_ARM = ("linux-aarch64",)
_HALF = ("float16", "bfloat16")
#: Backend → precisions, for cards of a compute capability.
_TURING: dict[str, tuple[str, ...]] = {"tensorrt_rtx": ("float16", "int8"), "tensorrt": ("float32", "float16", "int8")}
_AMPERE: dict[str, tuple[str, ...]] = dict.fromkeys(("tensorrt_rtx", "tensorrt"), ("float32", *_HALF, "int8", "int4"))
_ADA: dict[str, tuple[str, ...]] = {name: (*precisions, "fp8") for name, precisions in _AMPERE.items()}
_BLACKWELL: dict[str, tuple[str, ...]] = {name: (*precisions, "nvfp4") for name, precisions in _ADA.items()}


@dataclass(frozen=True)
class Target:
    """One kind of device.

    Attributes:
        name: as given to `--target`.
        description: for people.
        capability: the compute capability ("8.9"); none for processors.
        serves: backend (a Python module's name) → component precisions that run through it, the preferred backend
            first.
        platforms: what it runs on.
        cards: devices of that kind.
        source: where the rest is from.
    """

    name: str
    description: str
    capability: str | None
    serves: dict[str, tuple[str, ...]]
    platforms: tuple[str, ...]
    cards: tuple[Card, ...]
    source: str

    @property
    def backends(self) -> tuple[str, ...]:
        """What can serve it, the preferred one first."""
        return tuple(self.serves)

    @property
    def precisions(self) -> tuple[str, ...]:
        """What runs on it through any backend."""
        return tuple(dict.fromkeys(precision for served in self.serves.values() for precision in served))

    def precisions_of(self, backend: str) -> tuple[str, ...]:
        """What runs on it through a backend."""
        return self.serves[backend]

    def to_dict(self) -> dict[str, object]:
        """JSON-ready fields."""
        return {**asdict(self), "backends": self.backends, "precisions": self.precisions}


_COMPILED = "TensorRT-RTX 1.7.1's list of compute capabilities; precisions by compiling"

TARGETS = {
    target.name: target
    for target in (
        Target(
            name="cpu",
            description="any x86-64 or aarch64 processor",
            capability=None,
            # ONNX Runtime's CPU provider has no bfloat16 MatMul, and emulates float16 ones more slowly than float32.
            serves={
                "onnxruntime": ("float32", "int8", "int4", "fp8"),
                "openvino": ("float32", *_HALF, "int8", "int4"),
            },
            platforms=(*_X86, *_ARM),
            cards=(),
            source="ONNX Runtime operator kernels: CPU execution provider; OpenVINO's by running them",
        ),
        Target(
            name="rtx-20",
            description="GeForce RTX 20, Quadro RTX (Turing)",
            capability="7.5",
            serves=_TURING,
            platforms=_X86,
            cards=cards.RTX_20,
            source=_COMPILED,
        ),
        Target(
            name="rtx-30",
            description="GeForce RTX 30, RTX A-series (Ampere)",
            capability="8.6",
            serves=_AMPERE,
            platforms=_X86,
            cards=cards.RTX_30,
            source=_COMPILED,
        ),
        Target(
            name="rtx-40",
            description="GeForce RTX 40, RTX Ada",
            capability="8.9",
            serves=_ADA,
            platforms=_X86,
            cards=cards.RTX_40,
            source=_COMPILED,
        ),
        Target(
            name="rtx-50",
            description="GeForce RTX 50, RTX PRO Blackwell",
            capability="12.0",
            serves=_BLACKWELL,
            platforms=_X86,
            cards=cards.RTX_50,
            source=_COMPILED,
        ),
        Target(
            name="dgx-spark",
            description="DGX Spark (GB10)",
            capability="12.1",
            serves={"tensorrt": _BLACKWELL["tensorrt"]},
            platforms=_ARM,
            cards=cards.DGX_SPARK,
            source="CUDA GPUs: compute capability; tensorrt-rtx has no aarch64 package",
        ),
        Target(
            name="jetson-orin",
            description="Jetson AGX Orin, Orin NX, Orin Nano",
            capability="8.7",
            serves={"tensorrt": _AMPERE["tensorrt"]},
            platforms=_ARM,
            cards=cards.JETSON_ORIN,
            source="CUDA GPUs: compute capability; JetPack 6 brings TensorRT 10.3",
        ),
        Target(
            name="jetson-thor",
            description="Jetson AGX Thor",
            capability="11.0",
            serves={"tensorrt": _BLACKWELL["tensorrt"]},
            platforms=_ARM,
            cards=cards.JETSON_THOR,
            source="CUDA GPUs: compute capability; JetPack 7 brings TensorRT 10.13",
        ),
        Target(
            name="a100",
            description="A100 (Ampere, data centre)",
            capability="8.0",
            serves=_AMPERE,
            platforms=("linux-x86_64",),
            cards=cards.A100,
            source=_COMPILED,
        ),
        Target(
            name="h100",
            description="H100, H200 (Hopper, data centre)",
            capability="9.0",
            serves={"tensorrt": _ADA["tensorrt"]},
            platforms=("linux-x86_64",),
            cards=cards.H100,
            source="CUDA GPUs: compute capability; not in TensorRT-RTX 1.7.1's list",
        ),
    )
}


def find_target(name: str) -> Target:
    """A target by name.

    Raises:
        RequestError: there is none of that name.
    """
    if name not in TARGETS:
        raise RequestError(f"there is no target {name!r}", f"use one of {', '.join((AUTO, *TARGETS))}")
    return TARGETS[name]


def targets_of(names: str, gpus: Callable[[], Sequence[Device]] = find_gpus) -> list[Target]:
    """Targets by names with commas between them, each once; "auto" is what this machine is.

    Raises:
        RequestError: there is none of one of the names, or none for this machine's GPU.
    """
    targets = [_this_machine(gpus()) if name == AUTO else find_target(name) for name in _split(names)]
    return list({target.name: target for target in targets}.values())


def _split(names: str) -> list[str]:
    return [part.strip() for part in names.split(",")]


def _this_machine(gpus: Sequence[Device]) -> Target:
    """The target of the first GPU; the processor where there is none."""
    if not gpus:
        return TARGETS["cpu"]
    target = target_of_capability(gpus[0].capability or "")
    if target is None:
        raise RequestError(f"there is no target for {gpus[0].describe()}", "name one: see `unipic2-edge targets`")
    return target


def target_of_capability(capability: str) -> Target | None:
    """The target of a compute capability, if there is one."""
    return next((target for target in TARGETS.values() if target.capability == capability), None)
