"""The numbers: a weight matrix [K, N] as codes and scales, and activations rounded as an engine rounds them.

Every format is symmetric (no zero point). Scales are kept in the carrier, the precision of the products around, and
the codes are found for the scales *as kept*, so that nothing is lost between here and the engine.

- int8: one scale per output channel.
- fp8: float8_e4m3fn, one scale per output channel; activations one scale for all.
- int4: one scale per block of inputs and output channel.
- nvfp4: float4_e2m1fn in blocks of 16 inputs, whose float8_e4m3fn scales share one global scale (NVIDIA, "Introducing
  NVFP4 for Efficient and Accurate Low-Precision Inference").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

WeightFormat = Literal["int8", "fp8", "int4", "nvfp4"]
ActivationFormat = Literal["int8", "fp8", "nvfp4"]

#: The largest magnitude of each format's codes.
PEAK: dict[str, float] = {"int8": 127.0, "fp8": 448.0, "int4": 7.0, "nvfp4": 6.0}
#: Bits of a weight's code.
BITS: dict[str, int] = {"int8": 8, "fp8": 8, "int4": 4, "nvfp4": 4}
NVFP4_BLOCK = 16
_REDUCED_PEAK = 63.0
_FP8_PEAK = 448.0
_FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
_FP4_BORDERS = (_FP4[1:] + _FP4[:-1]) / 2
_SMALLEST_SCALE = 2.0**-20  # float16 keeps four bits of it
_CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7)


@dataclass(frozen=True)
class QuantizedWeight:
    """A matrix [K, N] as codes and scales.

    Attributes:
        format: of the codes.
        codes: [K, N]; int8 for int8 and int4, float8_e4m3fn for fp8, uint8 with the 4-bit pattern for nvfp4.
        scales: [N] for int8 and fp8, [K / block, N] for int4, both in the carrier; float8_e4m3fn for nvfp4.
        block: inputs that share a scale; None where all of a channel do.
        global_scale: [] in the carrier, of nvfp4's scales.
    """

    format: WeightFormat
    codes: Tensor
    scales: Tensor
    block: int | None = None
    global_scale: Tensor | None = None

    def dequantized(self) -> Tensor:
        """The matrix that an engine multiplies with, [K, N] float32."""
        values = _fp4_values(self.codes) if self.format == "nvfp4" else self.codes.float()
        scales = self.scales.float()
        if self.global_scale is not None:
            scales = scales * self.global_scale.float()
        if self.block is not None:
            scales = scales.repeat_interleave(self.block, dim=0)
        return values * scales


def quantize_weight(
    weight: Tensor, kind: WeightFormat, carrier: torch.dtype, block: int | None = None, reduce_range: bool = False
) -> QuantizedWeight:
    """Quantise a matrix to the nearest codes.

    Args:
        weight: [K, N], any floating-point dtype.
        kind: the format.
        carrier: the dtype of the scales.
        block: inputs that share a scale, for int4; must divide K.
        reduce_range: int8 codes of 7 bits.

    Raises:
        ValueError: the block does not divide K.
    """
    weight = weight.float()
    if kind == "nvfp4":
        return _nvfp4(weight, carrier)
    if kind == "int4":
        return _int4(weight, carrier, block or weight.shape[0])
    peak = _REDUCED_PEAK if reduce_range and kind == "int8" else PEAK[kind]
    scales = _kept(weight.abs().amax(0) / peak, carrier)
    return QuantizedWeight(kind, _codes(weight / scales.float(), kind), scales)


def block_for(inputs: int, largest: int) -> int | None:
    """The largest power of two that divides the inputs and is at most `largest`; none below 16."""
    block = largest
    while block >= NVFP4_BLOCK:
        if inputs % block == 0:
            return block
        block //= 2
    return None


def quantize_activations(states: Tensor, kind: ActivationFormat, scale: Tensor) -> Tensor:
    """Activations [..., K] rounded and back, in float32: what an engine's product sees.

    Args:
        states: the activations.
        kind: the format.
        scale: [] of int8 and fp8; the global scale of nvfp4, whose block scales are found on the fly.
    """
    states, scale = states.float(), scale.float()
    if kind != "nvfp4":
        return _codes(states / scale, kind).float() * scale
    blocks = torch.unflatten(states, -1, (-1, NVFP4_BLOCK))
    ratios = blocks.abs().amax(-1, keepdim=True) / PEAK["nvfp4"] / scale
    scales = _to_fp8(ratios).float() * scale
    return (_fp4_values(_fp4_codes(_ratio(blocks, scales))) * scales).flatten(-2)


def activation_scale(amax: float, kind: ActivationFormat, carrier: torch.dtype) -> Tensor:
    """The scale [] under which the largest magnitude gets the largest code."""
    peak = PEAK[kind] * _FP8_PEAK if kind == "nvfp4" else PEAK[kind]
    return _kept(torch.tensor(amax / peak), carrier)


def _kept(scales: Tensor, carrier: torch.dtype) -> Tensor:
    return scales.clamp(min=_SMALLEST_SCALE).to(carrier)


def _codes(ratios: Tensor, kind: str) -> Tensor:
    if kind == "fp8":
        return _to_fp8(ratios)
    return ratios.round().clamp(-PEAK[kind] - 1, PEAK[kind]).to(torch.int8)


def _to_fp8(ratios: Tensor) -> Tensor:
    return ratios.clamp(-_FP8_PEAK, _FP8_PEAK).to(torch.float8_e4m3fn)


def _int4(weight: Tensor, carrier: torch.dtype, block: int) -> QuantizedWeight:
    """Each block with the scale, of a few smaller than the largest value asks for, that leaves the least error."""
    if weight.shape[0] % block:
        raise ValueError(f"a block of {block} does not divide {weight.shape[0]} inputs")
    blocks = torch.unflatten(weight, 0, (-1, block))  # [K / block, block, N]
    largest = blocks.abs().amax(1) / PEAK["int4"]
    scales = _kept(largest, carrier)
    least = _block_error(blocks, scales)
    for clip in _CLIPS[1:]:
        tried = _kept(largest * clip, carrier)
        error = _block_error(blocks, tried)
        scales, least = torch.where(error < least, tried, scales), torch.minimum(error, least)
    codes = _codes(blocks / scales.float()[:, None], "int4").flatten(0, 1)
    return QuantizedWeight("int4", codes, scales, block)


def _block_error(blocks: Tensor, scales: Tensor) -> Tensor:
    scales = scales.float()[:, None]
    return ((blocks / scales).round().clamp(-8, 7) * scales - blocks).square().sum(1)


def _nvfp4(weight: Tensor, carrier: torch.dtype) -> QuantizedWeight:
    if weight.shape[0] % NVFP4_BLOCK:
        raise ValueError(f"a block of {NVFP4_BLOCK} does not divide {weight.shape[0]} inputs")
    blocks = torch.unflatten(weight, 0, (-1, NVFP4_BLOCK))
    global_scale = _kept(weight.abs().amax() / PEAK["nvfp4"] / _FP8_PEAK, carrier)
    scales = _to_fp8(blocks.abs().amax(1) / PEAK["nvfp4"] / global_scale.float())  # [K / 16, N]
    codes = _fp4_codes(_ratio(blocks, (scales.float() * global_scale.float())[:, None])).flatten(0, 1)
    return QuantizedWeight("nvfp4", codes, scales, NVFP4_BLOCK, global_scale)


def _ratio(values: Tensor, scales: Tensor) -> Tensor:
    """Values over scales; a block whose scale was rounded to zero becomes zeros."""
    return torch.where(scales > 0, values / scales.clamp(min=1e-30), 0.0)


def _fp4_codes(ratios: Tensor) -> Tensor:
    """The 4-bit patterns of float4_e2m1fn: the sign, then the magnitude's place in the list."""
    magnitudes = torch.bucketize(ratios.abs().contiguous(), _FP4_BORDERS).to(torch.uint8)
    return magnitudes | (ratios < 0).to(torch.uint8) << 3


def _fp4_values(codes: Tensor) -> Tensor:
    signs = 1 - 2 * (codes >> 3).float()
    return _FP4[(codes & 7).int()] * signs
