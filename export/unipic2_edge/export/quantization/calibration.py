"""Calibration: the reference pipeline is led through the calibration set, and every planned layer's inputs are watched.

Generation and editing, both guidance branches and every step of the schedule come by in the proportion in which they
are served, because it is the runtime's own pipeline that leads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from unipic2_edge.runtime.errors import WorkError

from ..blocks import AttentionProduct
from ..reference import linears

_STRIDE = 7919  # a prime: rows of successive calls are not the same places


@dataclass
class LayerStatistics:
    """What was seen of a layer's inputs [..., K].

    Attributes:
        channel_amax: [K], each channel's largest magnitude.
        channel_mean: [K], each channel's mean magnitude.
        rows: [R, K], inputs kept as they were.
    """

    channel_amax: Tensor
    channel_sum: Tensor
    count: int = 0
    kept: list[Tensor] = field(default_factory=list)

    @property
    def channel_mean(self) -> Tensor:
        """[K], each channel's mean magnitude."""
        return self.channel_sum / max(1, self.count)

    @property
    def rows(self) -> Tensor:
        """[R, K], some inputs as they were."""
        return torch.cat(self.kept)


@dataclass
class AttentionStatistics:
    """The largest magnitudes of an attention product's query, key and value."""

    amax: tuple[float, float, float] = (0.0, 0.0, 0.0)
    head_size: int = 1  # d


class Watcher:
    """Collects statistics of layers and of attention products.

    Args:
        layers: names of the layers to watch.
        attention: whether attention products are watched.
        rows: to keep of each layer, in all.
        calls: about how often each layer will be called.
    """

    def __init__(self, layers: Iterable[str], attention: bool, rows: int, calls: int) -> None:
        self.layers: dict[str, LayerStatistics] = {}
        self.attention: dict[str, AttentionStatistics] = {}
        self._wanted, self._attention = frozenset(layers), attention
        self._rows, self._per_call = rows, max(1, -(-rows // max(1, calls)))

    def prepare(self, place: str, module: nn.Module) -> None:
        """Hook into a stage's module (a `Prepare`)."""
        for name, linear in linears(place, module):
            if name in self._wanted:
                linear.register_forward_pre_hook(self._layer_hook(name))
        for name, child in module.named_modules() if self._attention else ():
            if isinstance(child, AttentionProduct):
                child.register_forward_pre_hook(self._attention_hook(f"{place}.{name}"))

    def check_finite(self) -> None:
        """Refuse what cannot be calibrated with.

        Raises:
            WorkError: a layer saw NaN or infinity.
        """
        broken = [name for name, seen in self.layers.items() if not torch.isfinite(seen.channel_amax).all()]
        if broken:
            raise WorkError(
                f"calibration met NaN or infinity in the inputs of {broken[0]}",
                "check the checkpoint: its own pictures are broken too",
            )

    def check_seen(self) -> None:
        """Refuse a plan that was not calibrated whole.

        Raises:
            WorkError: a layer saw nothing at all.
        """
        unseen = sorted(self._wanted - set(self.layers))
        if unseen:
            raise WorkError(f"calibration never ran {unseen[0]}", "report it: the layer is not part of any picture")

    def _layer_hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._see(name, inputs[0].detach().float().flatten(0, -2))

        return hook

    def _see(self, name: str, states: Tensor) -> None:
        magnitudes = states.abs()
        seen = self.layers.get(name)
        if seen is None:
            width = states.shape[-1]
            seen = self.layers[name] = LayerStatistics(torch.zeros(width), torch.zeros(width))
        seen.channel_amax = torch.maximum(seen.channel_amax, magnitudes.amax(0))
        seen.channel_sum = seen.channel_sum + magnitudes.sum(0)
        seen.count += len(states)
        kept = sum(len(rows) for rows in seen.kept)
        if kept < self._rows:
            step = max(1, len(states) // self._per_call)
            first = (len(seen.kept) * _STRIDE) % step
            seen.kept.append(states[first::step][: min(self._per_call, self._rows - kept)].clone())

    def _attention_hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen = self.attention.setdefault(name, AttentionStatistics())
            now = [float(value.abs().amax()) for value in inputs]
            query, key, value = (max(pair) for pair in zip(seen.amax, now, strict=True))
            seen.amax, seen.head_size = (query, key, value), inputs[0].shape[-1]

        return hook
