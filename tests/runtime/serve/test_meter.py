"""What devices tell of themselves, and that a server passes it on."""

from __future__ import annotations

import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from unipic2_edge.runtime.bundle import Manifest
from unipic2_edge.runtime.device import Device, processor
from unipic2_edge.runtime.placement import Placement
from unipic2_edge.runtime.serve import meter as meter_module
from unipic2_edge.runtime.serve.meter import meter_of

from .conftest import FakePipeline, running

CARD = Device("gpu", 1, "a card", "8.9", 24 * 10**9, 20 * 10**9, "580.65", "linux-x86_64")


class _NvmlError(Exception):
    """As pynvml's."""


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Any:
    module: Any = types.ModuleType("pynvml")
    module.NVMLError = _NvmlError
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetHandleByIndex = lambda index: index
    module.nvmlDeviceGetTotalEnergyConsumption = lambda card: 1500 * card
    module.nvmlDeviceGetMemoryInfo = lambda card: types.SimpleNamespace(used=7e9)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


def test_a_server_tells_of_its_cards_joules_and_bytes(manifest: Manifest, fake: FakePipeline, nvml: Any) -> None:
    fake.placement = Placement(CARD, "cpu", "asked for")
    with running(manifest, lambda: fake) as server, server.client() as client:
        client.post("/v1/images/generations", json={"prompt": "a ring"})
        nvml.nvmlDeviceGetMemoryInfo = lambda card: types.SimpleNamespace(used=1e9)
        client.post("/v1/images/generations", json={"prompt": "a ring"})
        text = client.get("/metrics").text
    assert "unipic2_energy_joules 1.5" in text
    assert "unipic2_device_peak_memory_bytes 7e+09" in text


def test_what_a_card_refuses_is_left_out(manifest: Manifest, fake: FakePipeline, nvml: Any) -> None:
    def refuse(card: int) -> Any:
        raise _NvmlError("Not Supported")

    nvml.nvmlDeviceGetTotalEnergyConsumption = refuse
    meter = meter_of(CARD)
    assert meter.joules is None and meter.used_bytes is not None
    nvml.nvmlDeviceGetMemoryInfo = refuse
    assert math.isnan(meter.used_bytes())  # the device was lost meanwhile
    fake.placement = Placement(CARD, "cpu", "asked for")
    with running(manifest, lambda: fake) as server, server.client() as client:
        assert "unipic2_energy" not in client.get("/metrics").text


def test_packages_are_summed_and_their_parts_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter_module, "_RAPL", tmp_path)
    assert meter_of(processor()).joules is None
    for name, microjoules in (("intel-rapl:0", 1_000_000), ("intel-rapl:0:0", 300_000), ("intel-rapl:1", 2_500_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{microjoules}\n")
    joules = meter_of(processor()).joules
    assert joules is not None and joules() == 3.5
