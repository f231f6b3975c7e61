"""A device's limits: operations a second in each number format, and bytes a second.

Either measured on the device at hand (`ceilings`) or read from its data sheet (`engines.cards`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from unipic2_edge.engines.cards import Card
from unipic2_edge.engines.targets import TARGETS

#: A number format → where its peak stands on a card; formats that no unit multiplies run in the type around them.
_PEAKS = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "fp16",
    "int8": "int8",
    "fp8": "fp8",
    "nvfp4": "fp4",
    "int4": "fp16",
}
_NEGLIGIBLE = 0.01
_TERA, _GIGA = 1e12, 1e9


@dataclass(frozen=True)
class Limits:
    """What a device can do at most.

    Attributes:
        device: its name.
        source: "measured", with how, or the data sheet.
        rates: operations a second by number format.
        bandwidth: bytes a second of its memory.
    """

    device: str
    source: str
    rates: dict[str, float]
    bandwidth: float

    def rate(self, name: str) -> float | None:
        """The limit of a number format; None where it is not known."""
        return self.rates.get(name)

    def compute_seconds(self, matrix: dict[str, int]) -> float | None:
        """Seconds that matrix work takes at the limit; None where a format's limit is not known.

        A format of less than 1 % of the work (the timesteps' float32 in a bfloat16 graph) may be unknown: it is left
        out.
        """
        if self.missing(matrix):
            return None
        return sum(operations / rate for name, operations in matrix.items() if (rate := self.rate(name)) is not None)

    def missing(self, matrix: dict[str, int]) -> list[str]:
        """The formats whose limits would have to be known, and are not."""
        counts = _NEGLIGIBLE * sum(matrix.values())
        return [name for name, operations in matrix.items() if self.rate(name) is None and operations > counts]

    def memory_seconds(self, amount: int) -> float:
        """Seconds that so many bytes take at the limit."""
        return amount / self.bandwidth

    def to_dict(self) -> dict[str, object]:
        """JSON-ready fields."""
        return asdict(self)


def card_limits(card: Card) -> Limits:
    """A data sheet's limits; a format that the card has no unit for is left out."""
    rates = {name: peak * _TERA for name, field in _PEAKS.items() if (peak := getattr(card, field)) is not None}
    return Limits(f"{card.name} {card.memory:g} GB", f"data sheet: {card.source}", rates, card.bandwidth * _GIGA)


def find_card(device: str, memory_bytes: int | None) -> Card | None:
    """The card of a device's name as its driver gives it ("NVIDIA GeForce RTX 4060 Ti"), the nearest in memory."""
    cards = [card for target in TARGETS.values() for card in target.cards if _named(card.name, device)]
    longest = max((len(card.name) for card in cards), default=0)
    return _nearest([card for card in cards if len(card.name) == longest], memory_bytes)


def _named(card: str, device: str) -> bool:
    """Whether all words of a card's name stand in the device's: "H100 SXM" is not needed in full, drivers say HBM3."""
    words = re.findall(r"\w+", device.lower())
    return all(word in words for word in card.lower().split() if word != "sxm")


def _nearest(cards: Sequence[Card], memory_bytes: int | None) -> Card | None:
    if not cards:
        return None
    if memory_bytes is None:
        return cards[0]
    return min(cards, key=lambda card: abs(card.memory * _GIGA - memory_bytes))
