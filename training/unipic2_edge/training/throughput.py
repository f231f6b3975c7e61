"""How fast a run goes: samples and tokens a second, counted operations, and their share of what the device can (MFU).

Operations are counted by torch's FlopCounterMode (matrix products, convolutions and attention; 2 a multiply-add) over
whole steps, forward and backward, where the run begins. With gradient checkpointing the recomputation counts as work.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode

_COUNTED = 2  # steps: a step's micro-batches need not be of one task
_SIDE = {"cpu": 1024, "cuda": 8192}  # of the square matrices whose product is timed
_SECONDS = 0.2


class Throughput:
    """Times steps and says what they amount to.

    Args:
        samples: of one step, in all processes together.
        processes: how many there are, each with a device.
        peak: TFLOP/s of one device; 0: measured here, in `dtype`.
        device: where it trains.
        dtype: of the matrix products in training.
        counting: whether operations are counted (compiled code hides them).
    """

    def __init__(
        self, samples: int, processes: int, peak: float, device: torch.device, dtype: torch.dtype, counting: bool
    ) -> None:
        self._samples, self._processes, self._device = samples, processes, device
        self.ceiling = (peak * 1e12 or measured_ceiling(device, dtype)) if counting else 0.0
        self._left = _COUNTED if counting else 0
        self._counts: list[int] = []
        self._seconds, self._steps, self._tokens = 0.0, 0, 0.0

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around one step; those whose operations are counted are not timed, except where there are no others."""
        started = time.perf_counter()
        if self._left:
            self._left -= 1
            with FlopCounterMode(display=False) as counter:
                yield
            self._counts.append(counter.get_total_flops())
            return
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._seconds += time.perf_counter() - started
        self._steps += 1

    def tokens(self, count: float) -> None:
        """What a timed step's samples amount to in this process."""
        if not self._left:
            self._tokens += count

    def report(self) -> dict[str, float]:
        """Since the last report; empty where no step was timed."""
        steps, seconds, tokens = self._steps, self._seconds, self._tokens
        self._seconds, self._steps, self._tokens = 0.0, 0, 0.0
        if not steps:
            return {}
        each = seconds / steps
        made = {"seconds_per_step": each, "samples_per_second": self._samples / each}
        if tokens:
            made["tokens_per_second"] = tokens * self._processes / seconds
        if self._counts and self.ceiling:
            flops = sum(self._counts) / len(self._counts)  # of one process
            made |= {"tflop_per_step": flops * self._processes / 1e12, "mfu": flops / each / self.ceiling}
        return made | {"peak_memory_gb": peak_memory(self._device) / 1e9}


def measured_ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a square matrix product, the best of those that fit into a fifth of a second."""
    side = _SIDE.get(device.type, 2048)
    left = torch.randn(side, side, device=device).to(dtype)
    right = torch.randn(side, side, device=device).to(dtype)
    best, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < _SECONDS or best == float("inf"):
        begun = time.perf_counter()
        left @ right
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
