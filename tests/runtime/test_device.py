"""Devices: what NVML, the device tree and the user's words say."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from unipic2_edge.runtime import device as device_module
from unipic2_edge.runtime.device import Wanted, find_gpus, parse_device, processor, system_memory
from unipic2_edge.runtime.errors import RequestError


class _NvmlError(Exception):
    """As pynvml's."""


def _nvml(cards: list[tuple[str | bytes, tuple[int, int], int | None]], driver: str | bytes = "580.65") -> Any:
    """A pynvml of some cards: name, capability, memory (none for those that share the system's)."""
    module: Any = types.ModuleType("pynvml")
    module.NVMLError, module.log = _NvmlError, []
    module.nvmlInit = lambda: module.log.append("init")
    module.nvmlShutdown = lambda: module.log.append("shutdown")
    module.nvmlSystemGetDriverVersion = lambda: driver
    module.nvmlDeviceGetCount = lambda: len(cards)
    module.nvmlDeviceGetHandleByIndex = lambda index: cards[index]
    module.nvmlDeviceGetName = lambda card: card[0]
    module.nvmlDeviceGetCudaComputeCapability = lambda card: card[1]

    def memory(card: tuple[Any, Any, int | None]) -> Any:
        if card[2] is None:
            raise _NvmlError("Not Supported")
        return types.SimpleNamespace(total=card[2], free=card[2] - 1)

    module.nvmlDeviceGetMemoryInfo = memory
    return module


def test_nvml_tells_of_every_card(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = _nvml([(b"NVIDIA GeForce RTX 4090", (8, 9), 24 * 10**9), ("NVIDIA GeForce RTX 5090", (12, 0), 32 * 10**9)])
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    first, second = find_gpus()
    assert (first.name, first.capability, first.memory_bytes) == ("NVIDIA GeForce RTX 4090", "8.9", 24 * 10**9)
    assert (second.index, second.capability, second.driver) == (1, "12.0", "580.65")
    assert nvml.log == ["init", "shutdown"]
    assert "compute capability 8.9, 24.0 GB, driver 580.65" in first.describe()


def test_cards_that_share_the_systems_memory_have_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", _nvml([("GB10", (12, 1), None)]))
    monkeypatch.setattr(device_module, "system_memory", lambda: (128, 100))
    assert (find_gpus()[0].memory_bytes, find_gpus()[0].free_bytes) == (128, 100)


@pytest.mark.parametrize("where", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetName"])
def test_a_driver_that_does_not_answer_is_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str) -> None:
    nvml = _nvml([("a card", (8, 9), 1)])

    def fail(*arguments: object) -> None:
        raise _NvmlError("Driver Not Loaded")

    setattr(nvml, where, fail)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(device_module, "_DEVICE_TREE", tmp_path)
    assert find_gpus() == ()


@pytest.mark.parametrize(
    ("compatible", "capability"),
    [
        (b"nvidia,p3768-0000+p3767-0003\0nvidia,p3767-0003\0nvidia,tegra234\0", "8.7"),
        (b"nvidia,p3971-0080+p3834-0008\0nvidia,tegra264\0", "11.0"),
        (b"raspberrypi,5-model-b\0brcm,bcm2712\0", None),
    ],
)
def test_a_jetson_is_known_by_its_device_tree(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compatible: bytes, capability: str | None
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(device_module, "_DEVICE_TREE", tmp_path)
    (tmp_path / "model").write_bytes(b"NVIDIA Jetson of some kind\0")
    (tmp_path / "compatible").write_bytes(compatible)
    found = find_gpus()
    assert [gpu.capability for gpu in found] == ([] if capability is None else [capability])
    if found:
        assert found[0].name == "NVIDIA Jetson of some kind"
        assert found[0].memory_bytes == system_memory()[0]


def test_without_nvml_and_device_tree_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(device_module, "_DEVICE_TREE", tmp_path / "none")
    assert find_gpus() == ()


def test_memory_is_read_where_the_system_tells(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    400 kB\n")
    assert system_memory(meminfo) == (1_024_000, 409_600)
    assert system_memory(tmp_path / "none") == (None, None)


def test_the_processor_is_a_device() -> None:
    assert processor().kind == "cpu"
    assert processor().capability is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("auto", Wanted("auto")),
        ("cpu", Wanted("cpu")),
        ("gpu", Wanted("gpu")),
        ("gpu:1", Wanted("gpu", 1)),
        ("cuda:0", Wanted("cuda")),
    ],
)
def test_devices_are_read(text: str, wanted: Wanted) -> None:
    assert parse_device(text) == wanted


@pytest.mark.parametrize("text", ["", "tpu", "cpu:1", "gpu:", "gpu:x", "gpu:-1", "GPU"])
def test_what_is_no_device_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="no device"):
        parse_device(text)
