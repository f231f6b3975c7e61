"""The table of targets for people: aligned lines for a terminal, Markdown for the folder's README."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from textwrap import wrap

from .cards import Card
from .table import aligned
from .targets import Target

_SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_HARD_SPACE = "\N{NO-BREAK SPACE}"
_CARDS_WIDTH = 36


def targets_table(targets: Sequence[Target]) -> list[str]:
    """Targets as aligned lines of at most 110 characters: compute capability, backends, precisions, cards."""
    rows: list[tuple[str, ...]] = [("target", "CC", "through", "precisions", "cards")]
    for target in targets:
        served = [(backend, " ".join(_names(precisions))) for backend, precisions in target.serves.items()]
        known = [(target.name, target.capability or "")]
        for first, backend, cards in zip_longest(known, served, _cards(target)):
            rows.append((*(first or ("", "")), *(backend or ("", "")), cards or ""))
    return aligned(rows)


def _names(precisions: Sequence[str]) -> list[str]:
    return [_SHORT.get(name, name) for name in precisions]


def _cards(target: Target) -> list[str]:
    """Cards and their memory in lines, each card on one of them; without cards, what the target is."""
    named = [f"{card.name} {card.memory:g}GB".replace(" ", _HARD_SPACE) for card in target.cards]
    lines = wrap(", ".join(named) or target.description, _CARDS_WIDTH)
    return [line.replace(_HARD_SPACE, " ") for line in lines]


def support_matrix(targets: Sequence[Target]) -> list[str]:
    """The table as Markdown, for the folder's README."""
    lines = ["| target | compute capability | through | precisions |", "|---|---|---|---|"]
    for target in targets:
        for backend, precisions in target.serves.items():
            names = ", ".join(_names(precisions))
            lines.append(f"| {target.name}: {target.description} | {target.capability or ''} | {backend} | {names} |")
    return lines


def card_matrix(targets: Sequence[Target]) -> list[str]:
    """The targets' cards as Markdown: memory, bandwidth, peak rates and where they are from."""
    lines = ["| target | card | GB | GB/s | fp32 | fp16 | fp8 | int8 | fp4 | source |", "|" + "---|" * 10]
    for target in targets:
        for card in target.cards:
            figures = " | ".join("" if figure is None else f"{figure:g}" for figure in _figures(card))
            lines.append(f"| {target.name} | {card.name} | {figures} | {card.source} |")
    return lines


def _figures(card: Card) -> tuple[float | None, ...]:
    return card.memory, card.bandwidth, card.fp32, card.fp16, card.fp8, card.int8, card.fp4
