"""Weights read from disk in portions, when a graph is written: one portion is in memory at a time."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from .weights import EXTERNAL_FROM

#: Reads a portion: the module with its weights in memory.
Load = Callable[[], nn.Module]


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and floating-point buffers of a module, by name; integers stay constants of the graph."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: tensor.detach() for name, tensor in named if tensor.is_floating_point()}


class Portions:
    """The portion read last, and the small tensors of all that were read: those go into the graph at the end."""

    def __init__(self) -> None:
        self._load: Load | None = None
        self._tensors: dict[str, Tensor] = {}
        self._small: dict[tuple[Load, str], Tensor] = {}

    def tensor(self, load: Load, name: str) -> Tensor:
        """A tensor of a portion, under its name there; the portion before is let go."""
        small = self._small.get((load, name))
        if small is not None:
            return small
        if self._load != load:
            self._tensors = {}  # before the next one is read, or two would be held
            self._tensors = tensors_of(load())
            self._load = load
            for key, tensor in self._tensors.items():
                if tensor.nbytes < EXTERNAL_FROM:
                    self._small[load, key] = tensor.clone()  # of its own: a view would hold the file
        return self._tensors[name]
