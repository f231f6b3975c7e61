"""Devices of each target: memory, memory bandwidth and peak rates.

Peak rates are dense; 16-bit and fp8 products accumulate in 32 bits (GeForce cards do that at half of the rate they
are advertised with). A source names the document where a figure is to be looked up; "computed" ones follow from the
multiprocessors and the boost clock of NVIDIA's product page and the family's rate of one multiprocessor. The papers
were not at hand when the table was written: tests compute the rates of GeForce cards, A100 and Orin again, those of
H100, H200, Thor and DGX Spark rest on the named data sheet alone. None is what no source gives.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """One device. Jetsons and DGX Spark share their memory with the processor.

    Attributes:
        name: as sold.
        memory: in GB (10⁹ bytes).
        bandwidth: of the memory, in GB/s.
        fp32: dense peak of plain 32-bit arithmetic, in TFLOPS.
        fp16: of products in float16 or bfloat16, accumulated in 32 bits, in TFLOPS.
        fp8: the same in fp8.
        int8: of products in int8, in TOPS.
        fp4: of products in nvfp4, in TFLOPS.
        source: the document.
    """

    name: str
    memory: float
    bandwidth: float
    fp32: float | None
    fp16: float | None
    fp8: float | None
    int8: float | None
    fp4: float | None
    source: str


_TURING = "NVIDIA Turing GPU Architecture whitepaper: reference boards"
_AMPERE = "NVIDIA Ampere GA102 GPU Architecture whitepaper"
_ADA = "NVIDIA Ada GPU Architecture whitepaper"
_BLACKWELL = "NVIDIA RTX Blackwell GPU Architecture whitepaper"
_COMPUTED = "computed from NVIDIA's product page"
_ORIN = "NVIDIA Jetson AGX Orin Series technical brief: GPU alone, half of the sparse rate"
_ORIN_NX = "NVIDIA Jetson Orin NX Series data sheet (918 MHz); rates computed"
_ORIN_NANO = "NVIDIA blog, Jetson Orin Nano Developer Kit Gets a “Super” Boost: MAXN SUPER of JetPack 6.1 and later"
_THOR = "NVIDIA Jetson Thor Series data sheet, half of the sparse rates"
_SPARK = "NVIDIA DGX Spark data sheet, half of the sparse rate; fp32: NVIDIA at Hot Chips 2025"
_A100 = "NVIDIA A100 Tensor Core GPU data sheet"
_H100 = "NVIDIA H100 Tensor Core GPU Architecture whitepaper"
_H200 = "NVIDIA H200 Tensor Core GPU data sheet, half of the sparse rates"

# name, GB, GB/s, then fp32, fp16, fp8, int8, fp4
RTX_20 = (
    Card("RTX 2060", 6, 336, 6.5, 25.8, None, 103.2, None, _COMPUTED),
    Card("RTX 2070", 8, 448, 7.5, 29.9, None, 119.4, None, _TURING),
    Card("RTX 2080", 8, 448, 10.1, 40.3, None, 161.1, None, _TURING),
    Card("RTX 2080 Ti", 11, 616, 13.4, 53.8, None, 215.2, None, _TURING),
)
RTX_30 = (
    Card("RTX 3070", 8, 448, 20.3, 40.6, None, 162.6, None, _AMPERE),
    Card("RTX 3080", 10, 760, 29.8, 59.5, None, 238.0, None, _AMPERE),
    Card("RTX 3060", 12, 360, 12.7, 25.5, None, 101.9, None, _COMPUTED),
    Card("RTX 3090", 24, 936, 35.6, 71.0, None, 284.0, None, _AMPERE),
)
RTX_40 = (
    Card("RTX 4060", 8, 272, 15.1, 30.2, 60.5, 120.9, None, _COMPUTED),
    Card("RTX 4070", 12, 504, 29.1, 58.3, 116.6, 233.2, None, _COMPUTED),
    Card("RTX 4060 Ti", 16, 288, 22.1, 44.1, 88.3, 176.5, None, _COMPUTED),
    Card("RTX 4080", 16, 716.8, 48.7, 97.5, 194.9, 389.9, None, _ADA),
    Card("RTX 4090", 24, 1008, 82.6, 165.2, 330.3, 660.6, None, _ADA),
)
RTX_50 = (
    Card("RTX 5070", 12, 672, 30.9, 61.7, 123.5, 246.9, 493.9, _BLACKWELL),
    Card("RTX 5060 Ti", 16, 448, 23.7, 47.4, 94.8, 189.6, 379.2, _COMPUTED),
    Card("RTX 5070 Ti", 16, 896, 43.9, 87.9, 175.8, 351.5, 703.0, _BLACKWELL),
    Card("RTX 5080", 16, 960, 56.3, 112.6, 225.1, 450.2, 900.4, _BLACKWELL),
    Card("RTX 5090", 32, 1792, 104.8, 209.5, 419.0, 838.0, 1676.0, _BLACKWELL),
)
DGX_SPARK = (Card("GB10", 128, 273, 31.0, None, None, None, 500.0, _SPARK),)
JETSON_ORIN = (
    Card("Orin Nano", 8, 102, None, 17.0, None, 33.0, None, _ORIN_NANO),
    Card("Orin NX", 16, 102.4, 1.9, 15.0, None, 30.1, None, _ORIN_NX),
    Card("AGX Orin", 64, 204.8, 5.3, 42.5, None, 85.0, None, _ORIN),
)
JETSON_THOR = (Card("T5000", 128, 273, None, 258.5, 517.5, None, 1035.0, _THOR),)
A100 = (
    Card("A100 SXM", 40, 1555, 19.5, 312.0, None, 624.0, None, _A100),
    Card("A100 SXM", 80, 2039, 19.5, 312.0, None, 624.0, None, _A100),
)
H100 = (
    Card("H100 SXM", 80, 3352, 66.9, 989.4, 1978.9, 1978.9, None, _H100),
    Card("H200 SXM", 141, 4800, 67.0, 989.5, 1979.0, 1979.0, None, _H200),
)
