"""The cards' figures: complete, and what multiprocessors × clock × the family's rate of one give."""

from __future__ import annotations

import pytest

from unipic2_edge.engines.cards import Card
from unipic2_edge.engines.targets import TARGETS

CARDS = [(target.name, card) for target in TARGETS.values() for card in target.cards]
RATES = ("fp32", "fp16", "fp8", "int8", "fp4")
#: Operations of one multiprocessor in one clock, from the architectures' whitepapers: a multiply-add counts two.
#: GeForce cards accumulate 16-bit products in 32 bits at half of the rate of A100's and Orin's tensor cores.
PER_CLOCK: dict[str, dict[str, int]] = {
    "rtx-20": {"fp32": 128, "fp16": 512, "int8": 2048},
    "rtx-30": {"fp32": 256, "fp16": 512, "int8": 2048},
    "rtx-40": {"fp32": 256, "fp16": 512, "fp8": 1024, "int8": 2048},
    "rtx-50": {"fp32": 256, "fp16": 512, "fp8": 1024, "int8": 2048, "fp4": 4096},
    "a100": {"fp32": 128, "fp16": 2048, "int8": 4096},
    "jetson-orin": {"fp32": 256, "fp16": 2048, "int8": 4096},
}
#: Multiprocessors and boost clock in GHz, as NVIDIA's product pages and data sheets give them.
BUILT = {
    "RTX 2060": (30, 1.680),
    "RTX 2070": (36, 1.620),
    "RTX 2080": (46, 1.710),
    "RTX 2080 Ti": (68, 1.545),
    "RTX 3060": (28, 1.777),
    "RTX 3070": (46, 1.725),
    "RTX 3080": (68, 1.710),
    "RTX 3090": (82, 1.695),
    "RTX 4060": (24, 2.460),
    "RTX 4060 Ti": (34, 2.535),
    "RTX 4070": (46, 2.475),
    "RTX 4080": (76, 2.505),
    "RTX 4090": (128, 2.520),
    "RTX 5060 Ti": (36, 2.572),
    "RTX 5070": (48, 2.512),
    "RTX 5070 Ti": (70, 2.452),
    "RTX 5080": (84, 2.617),
    "RTX 5090": (170, 2.407),
    "A100 SXM": (108, 1.410),
    "Orin Nano": (8, 1.020),
    "Orin NX": (8, 0.918),
    "AGX Orin": (16, 1.300),
}


def test_every_target_but_the_processor_has_cards() -> None:
    assert {target for target, _ in CARDS} == set(TARGETS) - {"cpu"}


def test_every_card_has_memory_bandwidth_and_a_source() -> None:
    for _, card in CARDS:
        assert card.memory > 0
        assert card.bandwidth > 0
        assert card.source


@pytest.mark.parametrize(("target", "card"), [(target, card) for target, card in CARDS if card.name in BUILT])
def test_rates_follow_from_multiprocessors_and_clock(target: str, card: Card) -> None:
    multiprocessors, clock = BUILT[card.name]
    listed = {rate: getattr(card, rate) for rate in RATES if getattr(card, rate) is not None}
    assert set(listed) <= set(PER_CLOCK[target])
    for rate, figure in listed.items():
        assert figure == pytest.approx(multiprocessors * clock * PER_CLOCK[target][rate] / 1000, rel=0.02), rate


def test_what_is_said_to_be_computed_is() -> None:
    assert [card.name for _, card in CARDS if "computed" in card.source and card.name not in BUILT] == []


def test_a_card_lists_no_rate_for_what_its_target_does_not_run() -> None:
    precisions = {"fp8": "fp8", "fp4": "nvfp4"}
    for target, card in CARDS:
        for rate, precision in precisions.items():
            assert getattr(card, rate) is None or precision in TARGETS[target].precisions


def test_narrower_formats_are_faster() -> None:
    for _, card in CARDS:
        for slower, faster in (("fp16", "fp8"), ("fp16", "int8"), ("fp8", "fp4")):
            rates = getattr(card, slower), getattr(card, faster)
            assert None in rates or rates[1] > 1.9 * rates[0], card
