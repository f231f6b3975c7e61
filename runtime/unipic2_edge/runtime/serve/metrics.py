"""What Prometheus is told: the queue, stages, pictures, answers, faults, memory, and energy where it can be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from ..device import Device
from ..result import Result
from .meter import Meter, meter_of

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
_STATUS = Path("/proc/self/status")


class Metrics:
    """The server's figures.

    Args:
        waiting: how many jobs wait now.
    """

    def __init__(self, waiting: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        Gauge("unipic2_queue_depth", "jobs that wait", registry=self.registry).set_function(waiting)
        Gauge("unipic2_peak_memory_bytes", "of this process", registry=self.registry).set_function(_peak_memory)
        self.pictures = Counter("unipic2_pictures", "pictures made", ["task"], registry=self.registry)
        self.tokens = Counter("unipic2_answer_tokens", "of answers in words", registry=self.registry)
        self.stages = Histogram(
            "unipic2_stage_seconds", "of a batch", ["task", "stage"], buckets=_SECONDS, registry=self.registry
        )
        self.answers = Counter("unipic2_answers", "answers by status", ["path", "status"], registry=self.registry)
        self.requests = Histogram(
            "unipic2_request_seconds", "until the answer is over", ["path"], buckets=_SECONDS, registry=self.registry
        )
        self.faults = Counter("unipic2_faults", "of the device", ["kind"], registry=self.registry)
        self._meter = Meter()
        self._device_peak = 0.0

    def watch(self, device: Device) -> None:
        """Tell of this device's energy and memory from now on, as far as it does."""
        before, self._meter = self._meter, meter_of(device)
        if self._meter.joules is not None and before.joules is None:
            energy = Gauge("unipic2_energy_joules", "of the device, as its counter stands", registry=self.registry)
            energy.set_function(self._meter.joules)
        if self._meter.used_bytes is not None and before.used_bytes is None:
            peak = Gauge("unipic2_device_peak_memory_bytes", "in use after a batch, at most", registry=self.registry)
            peak.set_function(lambda: self._device_peak)

    def observe(self, task: str, result: Result) -> None:
        """A batch is done."""
        self.pictures.labels(task).inc(len(result.images))
        if self._meter.used_bytes is not None:
            self._device_peak = max(self._device_peak, self._meter.used_bytes())
        for stage, seconds in result.seconds.items():
            self.stages.labels(task, stage).observe(seconds)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        text: bytes = generate_latest(self.registry)
        return text


def _peak_memory() -> float:
    """The most this process has held, in bytes; 0 where the system does not tell so cheaply."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0.0)
