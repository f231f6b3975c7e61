"""The search for scales: how much magnitude moves from inputs to weights, and how much of the inputs' range is cut off.

Both by trying: the layer's product of the kept inputs, rounded as an engine rounds, against the exact one.
SmoothQuant's formula (arXiv 2211.10438, equation 4) gives the candidates where inputs are quantised, AWQ's (arXiv
2306.00978, equation 5) where weights alone are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from .calibration import LayerStatistics
from .layers import LayerPlan, fake_linear, quantize_layer

_ALPHAS = {"smoothquant": (0.3, 0.5, 0.7, 0.85), "awq": (0.15, 0.3, 0.45, 0.6, 0.75)}
_CLIPS = {"int8": (1.0, 0.85, 0.7, 0.55), "fp8": (1.0,), "nvfp4": (1.0,)}
_LEAST_MAGNITUDE = 1e-5


def calibrated(plan: LayerPlan, weight: Tensor, seen: LayerStatistics) -> LayerPlan:
    """The plan whose product is nearest to the exact one on the inputs that were kept.

    Args:
        plan: the layer's, without scales of its inputs.
        weight: [K, N] float32.
        seen: what calibration saw of its inputs.
    """
    rows = seen.rows
    exact = rows @ weight
    best, least = plan, float("inf")
    for smoothed in _smoothings(plan, weight, seen):
        layer = quantize_layer(weight, replace(smoothed, amax=None))
        matrix = layer.weight.dequantized()
        for tried in _clips(smoothed, seen):
            error = _error(fake_linear(rows, layer, tried, matrix), exact)
            if error < least:
                best, least = tried, error
    return best


def unsearched(plan: LayerPlan, weight: Tensor, seen: LayerStatistics) -> LayerPlan:
    """The plan with the middle one of its method's strengths and the whole range of the inputs.

    To an engine it looks like a searched one; making it takes a fraction of the time.

    Args:
        plan: the layer's, without scales of its inputs.
        weight: [K, N] float32.
        seen: what calibration saw of its inputs.
    """
    plain, *smoothed = _smoothings(plan, weight, seen)
    return next(_clips(smoothed[len(smoothed) // 2] if smoothed else plain, seen))


def _error(made: Tensor, exact: Tensor) -> float:
    return float((made - exact).norm() / exact.norm().clamp(min=1e-30))


def _smoothings(plan: LayerPlan, weight: Tensor, seen: LayerStatistics) -> Iterator[LayerPlan]:
    """The plan as it is, then with each candidate's smoothing."""
    yield plan
    for alpha in _ALPHAS.get(plan.rule.method, ()):
        if plan.rule.method == "smoothquant":
            inputs, weights = _positive(seen.channel_amax), _positive(weight.abs().amax(1))
            smoothing = inputs**alpha / weights ** (1 - alpha)
        else:
            smoothing = _positive(seen.channel_mean) ** alpha
        yield replace(plan, smoothing=smoothing / (smoothing.max() * smoothing.min()).sqrt())


def _positive(magnitudes: Tensor) -> Tensor:
    return magnitudes.clamp(min=_LEAST_MAGNITUDE)


def _clips(plan: LayerPlan, seen: LayerStatistics) -> Iterator[LayerPlan]:
    """The plan with each candidate of the inputs' largest magnitude."""
    kind = plan.rule.activations
    if kind is None:
        yield plan
        return
    magnitudes = seen.channel_amax if plan.inverse is None else seen.channel_amax * plan.inverse.float()
    amax = max(float(magnitudes.max()), _LEAST_MAGNITUDE)
    for clip in _CLIPS[kind]:
        yield replace(plan, amax=amax * clip)
