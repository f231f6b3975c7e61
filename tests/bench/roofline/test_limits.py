"""Limits: of data sheets, of this processor, and which card a driver's name means."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from unipic2_edge.bench.roofline.ceilings import best_seconds, copy_bandwidth, measure_limits, torch_products
from unipic2_edge.bench.roofline.limits import Limits, card_limits, find_card
from unipic2_edge.bench.roofline.one_product import one_product
from unipic2_edge.engines.cards import Card
from unipic2_edge.runtime.device import processor


@pytest.mark.parametrize(
    ("device", "memory", "card"),
    [
        ("NVIDIA GeForce RTX 4090", None, "RTX 4090"),
        ("NVIDIA GeForce RTX 4060 Ti", 16e9, "RTX 4060 Ti"),
        ("NVIDIA GeForce RTX 4060", 8e9, "RTX 4060"),
        ("NVIDIA H100 80GB HBM3", 80e9, "H100 SXM"),
        ("NVIDIA H200", 141e9, "H200 SXM"),
        ("NVIDIA A100-SXM4-80GB", 80e9, "A100 SXM"),
        ("NVIDIA TITAN V", 12e9, None),
        ("processor", None, None),
    ],
)
def test_a_drivers_name_finds_its_card(device: str, memory: float | None, card: str | None) -> None:
    found = find_card(device, None if memory is None else int(memory))
    assert (found and found.name) == card


def test_of_two_cards_of_a_name_the_nearest_in_memory_is_meant() -> None:
    smaller, larger = (find_card("NVIDIA A100-SXM4", int(size * 1e9)) for size in (39, 79))
    assert smaller is not None and smaller.memory == 40
    assert larger is not None and larger.memory == 80


def test_a_data_sheets_limits_are_per_second_and_know_what_is_missing() -> None:
    card = Card("X", 8, 500, 10.0, 40.0, None, 160.0, None, "paper")
    limits = card_limits(card)
    assert limits.rates == {
        "float32": 10e12, "float16": 40e12, "bfloat16": 40e12, "int8": 160e12, "int4": 40e12,
    }  # fmt: skip
    assert limits.compute_seconds({"float16": 20 * 10**12, "float32": 5 * 10**12}) == pytest.approx(1.0)
    assert limits.compute_seconds({"fp8": 1}) is None
    assert limits.missing({"fp8": 2, "float16": 98}) == ["fp8"]
    assert limits.compute_seconds({"fp8": 10**11, "float16": 40 * 10**12}) == pytest.approx(1.0)  # too little to count
    assert limits.memory_seconds(250 * 10**9) == pytest.approx(0.5)


def test_the_product_is_the_product_in_both_formats() -> None:
    x = np.random.default_rng(3).standard_normal((64, 64)).astype(np.float32)
    made = {}
    for name in ("float32", "int8"):
        session = onnxruntime.InferenceSession(one_product(64, name).SerializeToString())
        made[name] = session.run(None, {"x": x})[0]
    weights = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    np.testing.assert_allclose(made["float32"], x @ weights, rtol=1e-4, atol=1e-4)
    error = np.linalg.norm(made["int8"] - made["float32"]) / np.linalg.norm(made["float32"])
    assert 1e-4 < error < 0.05  # quantised it is, and close


def test_a_processors_limits_are_measured() -> None:
    limits = measure_limits(processor(), threads=1, size=128)
    assert limits is not None
    assert 1e8 < limits.rates["float32"] < 1e13
    assert limits.rates["fp8"] == limits.rates["float32"]  # no unit for it: it is computed in float32
    assert 1e8 < limits.bandwidth < 1e13
    assert "128×128" in limits.source


def test_pytorchs_products_are_made_in_every_format_that_it_has() -> None:
    import torch

    found = dict(torch_products(torch, "cpu", 64))
    assert {"float32", "bfloat16", "int8"} <= found.keys()
    assert found.keys() <= {"float32", "float16", "bfloat16", "int8", "fp8"}


def test_a_copy_counts_what_is_read_and_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unipic2_edge.bench.roofline.ceilings.best_seconds", lambda run: run() and 0.5)
    assert copy_bandwidth(2, 1000) == 2 * 1000 / 0.5


def test_the_best_run_counts_and_the_first_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 3.0, 10.0, 12.0, 20.0, 24.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    runs: list[None] = []
    assert best_seconds(lambda: runs.append(None), seconds=1.0) == 2.0
    assert len(runs) == 4  # one to warm up, three timed


def test_limits_are_json_ready() -> None:
    limits = Limits("d", "s", {"float32": 1.0}, 2.0)
    assert Limits(**limits.to_dict()) == limits  # type: ignore[arg-type]
