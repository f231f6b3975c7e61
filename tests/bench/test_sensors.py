"""What stands beside every number: sensors that are there, and those that are not."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest

from unipic2_edge.bench import machine as machine_module
from unipic2_edge.bench.machine import machine
from unipic2_edge.bench.sensors import gpu_sensors, peak_memory, power_mode
from unipic2_edge.runtime.device import Device


class FakeNvml:
    """A driver that tells of clocks and temperature, but of no power limit."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    class NVMLError(Exception):
        pass

    def __getattr__(self, name: str) -> Any:
        answers: dict[str, Any] = {
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetClockInfo": lambda handle, kind: 1000 * kind,
            "nvmlDeviceGetMaxClockInfo": lambda handle, kind: 2000 * kind,
            "nvmlDeviceGetTemperature": lambda handle, kind: 63,
            "nvmlDeviceGetMemoryInfo": lambda handle: types.SimpleNamespace(used=3 * 2**30),
        }
        if name not in answers:
            raise self.NVMLError("Not Supported")
        return answers[name]


def test_a_gpus_sensors_are_read_as_far_as_they_answer() -> None:
    assert gpu_sensors(FakeNvml(), 0) == {
        "clock_mhz": {"now": 1000, "most": 2000},
        "memory_clock_mhz": {"now": 2000, "most": 4000},
        "temperature_c": 63,
        "memory_used_gib": 3.0,
    }


def test_the_machine_tells_of_this_process() -> None:
    found: Any = machine()
    assert 0 < found["sensors"]["peak_memory_gib"] < found["memory_gib"]
    assert "unipic2-edge" in found["libraries"]


def test_gpus_stand_in_the_inventory(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Device("gpu", 0, "a card", "8.9", 8 * 10**9, 10**9, "580.65", "linux")
    monkeypatch.setattr(machine_module, "find_gpus", lambda: (card,))
    assert machine()["gpus"] == ["a card, compute capability 8.9, 8.0 GB, driver 580.65"]


def test_peak_memory_is_the_systems_word(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("VmPeak:\t 9 kB\nVmHWM:\t 2048 kB\n", encoding="ascii")
    assert peak_memory(status) == 2 * 2**20


def test_a_jetsons_power_mode_is_asked_for(tmp_path: Path) -> None:
    command = tmp_path / "nvpmodel"
    command.write_text("#!/bin/sh\necho 'NV Power Mode: MAXN_SUPER'\necho 2\n", encoding="ascii")
    command.chmod(0o755)
    assert power_mode(lambda name: str(command)) == "MAXN_SUPER"
    assert power_mode(lambda name: None) is None
