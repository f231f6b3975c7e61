"""How fast a run goes: samples and tokens a second, and the share of what the device can that its operations are (MFU).

Operations are not counted on the run's own steps: torch takes other ways through an operation while it is watched, and
the weights would differ in their last bits. The meta device counts them (`planning/dry_run.py`), for the recipe's mix.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

_SIDE = {"cpu": 1024, "cuda": 8192}  # of the square matrices whose product is timed
_SECONDS = 0.2


class Throughput:
    """Times steps and says what they amount to.

    Args:
        samples: of one step, in all processes together.
        processes: how many there are, each with a device.
        flops: what one process computes in a step, 0 where that is not known; asked at the first report.
        peak: TFLOP/s of one device; 0: measured at the first report, in `dtype`.
        device: where it trains.
        dtype: of the matrix products in training.
    """

    def __init__(
        self,
        samples: int,
        processes: int,
        flops: Callable[[], float],
        peak: float,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._samples, self._processes, self._device, self._dtype = samples, processes, device, dtype
        self._ask, self._peak = flops, peak * 1e12
        self._flops: float | None = None
        self._seconds, self._steps, self._tokens = 0.0, 0, 0.0

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around one step."""
        started = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._seconds += time.perf_counter() - started
        self._steps += 1

    def tokens(self, count: float) -> None:
        """What a step's samples amount to in this process."""
        self._tokens += count

    def report(self) -> dict[str, float]:
        """Since the last report; empty where no step was made."""
        steps, seconds, tokens = self._steps, self._seconds, self._tokens
        self._seconds, self._steps, self._tokens = 0.0, 0, 0.0
        if not steps:
            return {}
        each = seconds / steps
        made = {"seconds_per_step": each, "samples_per_second": self._samples / each}
        if tokens:
            made["tokens_per_second"] = tokens * self._processes / seconds
        flops, ceiling = self._known()
        if flops:
            made |= {"tflop_per_step": flops * self._processes / 1e12, "mfu": flops / each / ceiling}
        return made | {"peak_memory_gb": peak_memory(self._device) / 1e9}

    def _known(self) -> tuple[float, float]:
        """Operations of a step, and the device's ceiling where there are any."""
        if self._flops is None:
            self._flops = self._ask()
            if self._flops and not self._peak:
                self._peak = measured_ceiling(self._device, self._dtype)
        return self._flops, self._peak


def measured_ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a square matrix product, the best of those that fit into a fifth of a second."""
    side = _SIDE.get(device.type, 2048)
    left = torch.randn(side, side, device=device).to(dtype)
    right = torch.randn(side, side, device=device).to(dtype)
    best, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < _SECONDS or best == float("inf"):
        begun = time.perf_counter()
        torch.matmul(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begun)
    return 2 * side**3 / best


def peak_memory(device: torch.device) -> int:
    """The most bytes that tensors took on the device, or this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
