"""Energy meters over trees and libraries that are not there: joules, wraps, refusals that are said."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from unipic2_edge.bench.energy.finding import find_meters
from unipic2_edge.bench.energy.jetson import JetsonMeter, jetson_rails
from unipic2_edge.bench.energy.meter import MeterError
from unipic2_edge.bench.energy.metering import metered
from unipic2_edge.bench.energy.nvml import NvmlMeter
from unipic2_edge.bench.energy.rapl import RaplMeter, rapl_zones
from unipic2_edge.runtime.device import Device, processor

GPU = Device("gpu", 1, "a card", "8.9", 10**9, 10**9, "580", "linux")


def _write(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n", encoding="ascii")
    return folder


def _zone(tree: Path, place: str, name: str, energy: int = 0) -> Path:
    return _write(tree / place, name=name, energy_uj=energy, max_energy_range_uj=1_000_000)


class FakeNvml:
    """The module, with GPUs' counters in millijoules."""

    class NVMLError(Exception):
        pass

    def __init__(self, *counters: int | None) -> None:
        self.counters = list(counters)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:  # noqa: N802
        found = self.counters[handle]
        if found is None:
            raise self.NVMLError("Not Supported")
        return found


def test_nvml_counts_millijoules_since_the_meter_was_made() -> None:
    library = FakeNvml(0, 5_000)
    meter = NvmlMeter(library, 1)
    library.counters[1] = 7_500
    meter.sample()
    library.counters[1] = 8_000
    meter.sample()
    assert meter.joules == pytest.approx(3.0) and meter.name == "GPU 1"


def test_a_gpu_without_a_counter_says_so() -> None:
    with pytest.raises(MeterError, match="no energy of GPU 0: Not Supported"):
        NvmlMeter(FakeNvml(None), 0)


def test_rapl_turns_over(tmp_path: Path) -> None:
    zone = _zone(tmp_path, "intel-rapl:0", "package-0", 900_000)
    meter = RaplMeter(zone)
    _write(zone, energy_uj=100_000)
    meter.sample()
    assert meter.joules == pytest.approx(0.2)
    _write(zone, energy_uj=400_000)
    meter.sample()
    assert meter.joules == pytest.approx(0.5) and meter.name == "RAPL package-0"


def test_packages_and_memory_are_counted_once(tmp_path: Path) -> None:
    for place, name in [
        ("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core"), ("intel-rapl:0:1", "dram"),
        ("intel-rapl:1", "psys"), ("intel-rapl-mmio:0", "package-0"),
    ]:  # fmt: skip
        _zone(tmp_path, place, name)
    assert [zone.name for zone in rapl_zones(tmp_path)] == ["intel-rapl:0", "intel-rapl:0:1"]


def _chip(tree: Path, number: int, rails: dict[int, tuple[str, int, int]], name: str = "ina3221") -> Path:
    chip = _write(tree / f"hwmon{number}", name=name)
    for channel, (label, volts, amperes) in rails.items():
        files = {f"in{channel}_label": label, f"in{channel}_input": volts, f"curr{channel}_input": amperes}
        _write(chip, **files)
    return chip


def test_a_jetsons_input_rail_is_all_of_it(tmp_path: Path) -> None:
    chip = _chip(tmp_path, 3, {1: ("VDD_IN", 5_000, 2_000), 2: ("VDD_CPU_GPU_CV", 5_000, 1_000), 3: ("NC", 0, 0)})
    _write(tmp_path / "hwmon0", name="nvme")
    rails = jetson_rails(tmp_path)
    assert sorted(rails) == ["VDD_CPU_GPU_CV", "VDD_IN"]
    now = [0.0]
    meter = JetsonMeter(rails, lambda: now[0])
    now[0] = 2.0
    meter.sample()
    assert meter.joules == pytest.approx(20.0)  # 10 W for 2 s
    _write(chip, curr1_input=4_000)
    now[0] = 3.0
    meter.sample()
    assert meter.joules == pytest.approx(35.0) and meter.scope.startswith("VDD_IN of")


def test_rails_add_up_where_no_input_is_measured(tmp_path: Path) -> None:
    _chip(tmp_path, 1, {1: ("VDD_GPU_SOC", 10_000, 1_000), 2: ("VDD_CPU_CV", 10_000, 500)})
    now = [0.0]
    meter = JetsonMeter(jetson_rails(tmp_path), lambda: now[0])
    now[0] = 1.0
    meter.sample()
    assert meter.joules == pytest.approx(15.0) and "VDD_CPU_CV" in meter.scope


def test_thors_monitor_at_the_input(tmp_path: Path) -> None:
    _write(_chip(tmp_path, 2, {}, "ina238"), power1_input=42_000_000)
    assert jetson_rails(tmp_path)["VIN"]() == pytest.approx(42.0)


def test_meters_fit_the_device(tmp_path: Path) -> None:
    _zone(tmp_path / "cap", "intel-rapl:0", "package-0")
    library = FakeNvml(0, 0)
    found = find_meters(GPU, tmp_path / "cap", tmp_path / "none", lambda index: NvmlMeter(library, index))
    assert [meter.name for meter in found.readable] == ["GPU 1", "RAPL package-0"]
    found = find_meters(processor(), tmp_path / "cap", tmp_path / "none")
    assert [meter.name for meter in found.readable] == ["RAPL package-0"] and found.unreadable == ()
    _chip(tmp_path / "mon", 0, {1: ("VDD_IN", 1, 1)})
    found = find_meters(GPU, tmp_path / "cap", tmp_path / "mon")
    assert [meter.name for meter in found.readable] == ["Jetson"]  # its rails are everything


def test_what_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_meters(processor(), tmp_path / "a", tmp_path / "b")
    assert found.readable == () and "no RAPL counter" in found.unreadable[0]
    zone = _zone(tmp_path / "cap", "intel-rapl:0", "package-0")
    read = Path.read_text

    def denied(path: Path, *rest: str, **named: str) -> str:
        if path == zone / "energy_uj":
            raise PermissionError(13, os.strerror(13))
        return read(path, *rest, **named)

    monkeypatch.setattr(Path, "read_text", denied)
    found = find_meters(processor(), tmp_path / "cap", tmp_path / "b")
    assert found.readable == () and "by root alone" in found.unreadable[0]


class Heater:
    """A meter of a steady power that stops answering when told to."""

    def __init__(self, name: str, watts: float) -> None:
        self.name, self.scope, self.joules, self.broken = name, "", 0.0, False
        self._watts, self._last, self.samples = watts, time.perf_counter(), 0

    def sample(self) -> None:
        if self.broken:
            raise MeterError("gone")
        now = time.perf_counter()
        self.joules += self._watts * (now - self._last)
        self._last, self.samples = now, self.samples + 1


def test_work_is_metered_while_it_runs() -> None:
    first, second = Heater("a", 10.0), Heater("b", 2.0)
    time.sleep(0.03)  # before the work: counts for nobody
    with metered([first, second], 0.005) as energy:
        time.sleep(0.1)
    assert energy.seconds >= 0.1 and first.samples > 3
    assert energy.joules == pytest.approx({"a": 10 * energy.seconds, "b": 2 * energy.seconds}, rel=0.1)
    assert energy.total == pytest.approx(12 * energy.seconds, rel=0.1)


def test_a_meter_that_fails_meanwhile_spoils_the_total_and_says_so() -> None:
    first, second = Heater("a", 10.0), Heater("b", 2.0)
    with metered([first, second], 0.005) as energy:
        second.broken = True
    assert energy.total is None and energy.failed == {"b": "gone"} and list(energy.joules) == ["a"]
    with metered([]) as nothing:
        pass
    assert nothing.total is None
