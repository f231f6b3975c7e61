"""The targets a bundle can be built for. A table: what a target is, not how it is built.

Peak rates are dense and, for 16-bit and fp8 products, with 32-bit accumulation, as the cited document lists them;
what it does not list is none. Precisions per backend are those that the compiler accepts (tests compile them).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from unipic2_edge.runtime.device import Device, find_gpus
from unipic2_edge.runtime.errors import RequestError

from .table import aligned

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
class Card:
    """One device of a target: memory in GB (10⁹ bytes), bandwidth in GB/s, dense peaks in TFLOPS or TOPS."""

    name: str
    memory: float
    bandwidth: float
    fp32: float | None
    fp16: float | None
    fp8: float | None
    int8: float | None
    fp4: float | None
    source: str


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
        return asdict(self) | {"backends": self.backends, "precisions": self.precisions}


_TURING_PAPER = "NVIDIA Turing GPU Architecture whitepaper, appendix A"
_GA102_PAPER = "NVIDIA Ampere GA102 GPU Architecture whitepaper, appendix A"
_ADA_PAPER = "NVIDIA Ada GPU Architecture whitepaper, appendix A"
_RTX_BLACKWELL_PAPER = "NVIDIA RTX Blackwell GPU Architecture whitepaper, appendix A"
_ORIN_BRIEF = "NVIDIA Jetson AGX Orin Series technical brief (GPU alone, half of the sparse rates)"
_COMPILED = "TensorRT-RTX 1.7.1's list of compute capabilities; precisions by compiling"

TARGETS = {
    target.name: target
    for target in (
        Target(
            name="cpu",
            description="any x86-64 or aarch64 processor",
            capability=None,
            # ONNX Runtime's CPU provider has no bfloat16 MatMul, and emulates float16 ones more slowly than float32.
            serves={"onnxruntime": ("float32",)},
            platforms=(*_X86, *_ARM),
            cards=(),
            source="ONNX Runtime operator kernels: CPU execution provider",
        ),
        Target(
            name="rtx-20",
            description="GeForce RTX 20, Quadro RTX (Turing)",
            capability="7.5",
            serves=_TURING,
            platforms=_X86,
            cards=(
                Card("RTX 2080 Ti", 11, 616, 13.4, 53.8, None, 215.2, None, _TURING_PAPER),
                Card("RTX 2080", 8, 448, 10.1, 40.3, None, 161.1, None, _TURING_PAPER),
            ),
            source=_COMPILED,
        ),
        Target(
            name="rtx-30",
            description="GeForce RTX 30, RTX A-series (Ampere)",
            capability="8.6",
            serves=_AMPERE,
            platforms=_X86,
            cards=(
                Card("RTX 3090", 24, 936, 35.6, 71.0, None, 284.0, None, _GA102_PAPER),
                Card("RTX 3080 10GB", 10, 760, 29.8, 59.5, None, 238.0, None, _GA102_PAPER),
                Card("RTX 3070", 8, 448, 20.3, 40.6, None, 162.6, None, _GA102_PAPER),
            ),
            source=_COMPILED,
        ),
        Target(
            name="rtx-40",
            description="GeForce RTX 40, RTX Ada",
            capability="8.9",
            serves=_ADA,
            platforms=_X86,
            cards=(
                Card("RTX 4090", 24, 1008, 82.6, 165.2, 330.3, 660.6, None, _ADA_PAPER),
                Card("RTX 4080", 16, 716.8, 48.7, 97.5, 194.9, 389.9, None, _ADA_PAPER),
            ),
            source=_COMPILED,
        ),
        Target(
            name="rtx-50",
            description="GeForce RTX 50, RTX PRO Blackwell",
            capability="12.0",
            serves=_BLACKWELL,
            platforms=_X86,
            cards=(
                Card("RTX 5090", 32, 1792, 104.8, 209.5, 419.0, 838.0, 1676.0, _RTX_BLACKWELL_PAPER),
                Card("RTX 5080", 16, 960, 56.3, 112.6, 225.1, 450.2, 900.4, _RTX_BLACKWELL_PAPER),
            ),
            source=_COMPILED,
        ),
        Target(
            name="dgx-spark",
            description="DGX Spark (GB10)",
            capability="12.1",
            serves={"tensorrt": _BLACKWELL["tensorrt"]},
            platforms=_ARM,
            cards=(
                Card(
                    "GB10",
                    128,
                    273,
                    None,
                    None,
                    None,
                    None,
                    500.0,
                    "NVIDIA DGX Spark datasheet (half of 1 PFLOP sparse)",
                ),
            ),
            source="CUDA GPUs: compute capability; tensorrt-rtx has no aarch64 package",
        ),
        Target(
            name="jetson-orin",
            description="Jetson AGX Orin, Orin NX, Orin Nano",
            capability="8.7",
            serves={"tensorrt": _AMPERE["tensorrt"]},
            platforms=_ARM,
            cards=(
                Card("AGX Orin 64GB", 64, 204.8, 5.3, 42.5, None, 85.0, None, _ORIN_BRIEF),
                Card("Orin NX 16GB", 16, 102.4, None, None, None, None, None, "NVIDIA Jetson Orin NX data sheet"),
                Card("Orin Nano 8GB", 8, 68.0, None, None, None, None, None, "NVIDIA Jetson Orin Nano data sheet"),
            ),
            source="CUDA GPUs: compute capability; JetPack 6 brings TensorRT 10.3",
        ),
        Target(
            name="jetson-thor",
            description="Jetson AGX Thor",
            capability="11.0",
            serves={"tensorrt": _BLACKWELL["tensorrt"]},
            platforms=_ARM,
            cards=(
                Card(
                    "T5000",
                    128,
                    273,
                    None,
                    None,
                    517.5,
                    None,
                    1035.0,
                    "NVIDIA Jetson Thor datasheet (half of the sparse rates)",
                ),
            ),
            source="CUDA GPUs: compute capability; JetPack 7 brings TensorRT 10.13",
        ),
        Target(
            name="a100",
            description="A100 (Ampere, data centre)",
            capability="8.0",
            serves=_AMPERE,
            platforms=("linux-x86_64",),
            cards=(Card("A100 80GB SXM", 80, 2039, 19.5, 312.0, None, 624.0, None, "NVIDIA A100 80GB datasheet"),),
            source=_COMPILED,
        ),
        Target(
            name="h100",
            description="H100, H200 (Hopper, data centre)",
            capability="9.0",
            serves={"tensorrt": _ADA["tensorrt"]},
            platforms=("linux-x86_64",),
            cards=(
                Card(
                    "H100 SXM",
                    80,
                    3352,
                    66.9,
                    989.4,
                    1978.9,
                    1978.9,
                    None,
                    "NVIDIA H100 GPU Architecture whitepaper, table 2",
                ),
            ),
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


def targets_table(targets: Sequence[Target]) -> list[str]:
    """Targets as aligned lines: compute capability, what serves them, what runs, cards with their memory in GB."""
    rows = [("target", "CC", "through", "precisions", "cards (GB)")]
    for target in targets:
        cards = ", ".join(f"{card.name} {card.memory:g}" for card in target.cards) or target.description
        for index, (backend, precisions) in enumerate(target.serves.items()):
            known = (target.name, target.capability or "", cards) if index == 0 else ("", "", "")
            rows.append((*known[:2], backend, " ".join(_SHORT.get(name, name) for name in precisions), known[2]))
    return aligned(rows)


def support_matrix(targets: Sequence[Target]) -> list[str]:
    """The table as Markdown, for the folder's README."""
    lines = ["| target | compute capability | through | precisions |", "|---|---|---|---|"]
    for target in targets:
        for backend, precisions in target.serves.items():
            names = ", ".join(_SHORT.get(name, name) for name in precisions)
            lines.append(f"| {target.name}: {target.description} | {target.capability or ''} | {backend} | {names} |")
    return lines


_SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
