"""Formats: errors of the size the format has, codes that other libraries agree with, no scale that vanishes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from unipic2_edge.export.quantization.formats import (
    BITS,
    WeightFormat,
    activation_scale,
    block_for,
    quantize_activations,
    quantize_weight,
)

CARRIERS = (torch.float32, torch.bfloat16, torch.float16)


def _matrix(scale: float = 0.05) -> torch.Tensor:
    return scale * torch.randn(256, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize(("kind", "least", "most"), [("int8", 3e-3, 1e-2), ("fp8", 0.02, 0.035), ("nvfp4", 0.07, 0.11)])
def test_the_error_is_the_formats(kind: WeightFormat, least: float, most: float, carrier: torch.dtype) -> None:
    weight = _matrix()
    error = float((quantize_weight(weight, kind, carrier).dequantized() - weight).norm() / weight.norm())
    assert least < error < most


def test_smaller_blocks_lose_less() -> None:
    weight = _matrix()
    errors = [
        float((quantize_weight(weight, "int4", torch.float32, block).dequantized() - weight).norm() / weight.norm())
        for block in (16, 64, 256)
    ]
    assert 0.05 < errors[0] < errors[1] < errors[2] < 0.2


@pytest.mark.parametrize("kind", BITS)
def test_codes_of_decoded_weights_decode_to_the_same(kind: WeightFormat) -> None:
    once = quantize_weight(_matrix(), kind, torch.float32, 64).dequantized()
    again = quantize_weight(once, kind, torch.float32, 64).dequantized()
    # A block whose range was cut off has its largest value on another code's place: int4 alone searches the range.
    assert float((again - once).norm() / once.norm()) < (0.05 if kind == "int4" else 1e-2)


@pytest.mark.parametrize("kind", BITS)
@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e-6, 1e3])
def test_no_magnitude_gives_not_a_number(kind: WeightFormat, carrier: torch.dtype, scale: float) -> None:
    made = quantize_weight(_matrix(scale), kind, carrier, 64).dequantized()
    assert torch.isfinite(made).all()
    assert float(made.abs().max()) <= 1.02 * float(_matrix(scale).abs().max()) + 1e-5


def test_four_bit_floats_are_those_of_ml_dtypes() -> None:
    """Whole blocks whose largest value is 6 × a power of two have a scale that is exact."""
    values = torch.linspace(-6, 6, 16 * 40)[torch.randperm(640, generator=torch.Generator().manual_seed(1))]
    weight = values.reshape(16, 40).clone()
    weight[0] = 6.0
    made = quantize_weight(weight, "nvfp4", torch.float32)
    assert made.global_scale is not None
    expected = weight.numpy().astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    np.testing.assert_allclose(made.dequantized().numpy(), expected, atol=1e-5)


def test_eight_bit_floats_are_those_of_ml_dtypes() -> None:
    states = 3 * torch.randn(64, 64, generator=torch.Generator().manual_seed(2))
    scale = torch.tensor(0.25)
    expected = (states.numpy() / 0.25).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * 0.25
    np.testing.assert_array_equal(quantize_activations(states, "fp8", scale).numpy(), expected)


def test_activations_beyond_the_range_are_cut_off() -> None:
    scale = activation_scale(2.0, "int8", torch.float32)
    made = quantize_activations(torch.tensor([-9.0, -2.0, 0.0, 1.999, 9.0]), "int8", scale)
    np.testing.assert_allclose(made.numpy(), [-2.0157, -2.0, 0.0, 2.0, 2.0], atol=1e-3)


def test_int8_weights_of_seven_bits_stay_within_them() -> None:
    made = quantize_weight(_matrix(), "int8", torch.float32, reduce_range=True)
    assert int(made.codes.abs().max()) == 63


@pytest.mark.parametrize(
    ("inputs", "largest", "block"), [(1536, 128, 128), (192, 128, 64), (48, 128, 16), (40, 128, None)]
)
def test_blocks_divide_the_inputs(inputs: int, largest: int, block: int | None) -> None:
    assert block_for(inputs, largest) == block


def test_a_block_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="does not divide"):
        quantize_weight(_matrix(), "int4", torch.float32, 100)
