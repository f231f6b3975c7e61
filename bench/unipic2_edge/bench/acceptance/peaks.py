"""The step that measures the device's limits: the fastest products in each number format, and the fastest copy."""

from __future__ import annotations

import os

from unipic2_edge.bench.roofline.ceilings import SIZE, measure_limits
from unipic2_edge.bench.roofline.limits import Limits, card_limits, find_card

from .step import Job, Made, SkippedError
from .ways import device_of


def measure(job: Job) -> Made:
    """The measured limits, and the data sheet's where there is one.

    Raises:
        SkippedError: PyTorch, which measures GPUs, is not there or does not know this one.
    """
    device = device_of(job.setting)
    measured = measure_limits(device, job.setting.threads or os.cpu_count() or 1, SIZE)
    if measured is None:
        raise SkippedError("PyTorch, which measures a GPU's limits, does not see it")
    card = find_card(device.name, device.memory_bytes) if device.kind == "gpu" else None
    sheet = None if card is None else card_limits(card)
    lines = [
        f"{name}: {rate / 1e12:.3g} TFLOP/s{_of_sheet(rate, sheet, name)}" for name, rate in measured.rates.items()
    ]
    lines.append(f"copies: {measured.bandwidth / 1e9:.4g} GB/s")
    results = {"measured": measured.to_dict(), "sheet": None if sheet is None else sheet.to_dict()}
    return Made(results=results, lines=lines)


def _of_sheet(rate: float, sheet: Limits | None, name: str) -> str:
    peak = None if sheet is None else sheet.rate(name)
    return "" if peak is None else f", {100 * rate / peak:.0f} % of the data sheet's"
