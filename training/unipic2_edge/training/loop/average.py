"""The exponential moving average of a model's weights, sharded as the weights are.

diffusers' EMAModel takes no sharded tensors; this one averages each process's own part, and gathers whole tensors only
to be saved. Its states are interchangeable with EMAModel's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


class WeightAverage:
    """Averages of parameters in their order: a ← a + (1 − d)·(p − a).

    d = min(decay, (1 + n) / (10 + n)) after n updates, so that early averages forget the random start, as in diffusers.

    Args:
        parameters: of the prepared model, whole or sharded.
        decay: the largest d.
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float) -> None:
        self._parameters = list(parameters)
        self._decay = decay
        self._steps = 0
        self._shadows = [_local(parameter).clone() for parameter in self._parameters]

    @torch.no_grad()
    def step(self) -> None:
        """Take the parameters' present values into the average."""
        self._steps += 1
        before = self._steps - 1
        decay = min(self._decay, (1 + before) / (10 + before)) if before else 0.0
        torch._foreach_lerp_(self._shadows, [_local(each) for each in self._parameters], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The averages stand in the model for the time of the block."""
        kept = [_local(parameter).clone() for parameter in self._parameters]
        self._write(self._shadows)
        try:
            yield
        finally:
            self._write(kept)

    @torch.no_grad()
    def _write(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            _local(parameter).copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Whole tensors on the CPU; every process must take part, as sharded ones are gathered."""
        whole = [_whole(shadow, like) for shadow, like in zip(self._shadows, self._parameters, strict=True)]
        return {"decay": self._decay, "optimization_step": self._steps, "shadow_params": whole}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a state of this class or of EMAModel; the recipe's decay holds, not the state's.

        Raises:
            ValueError: it is of another model.
        """
        stored: list[Tensor] = state["shadow_params"]
        if [tuple(each.shape) for each in stored] != [tuple(each.shape) for each in self._parameters]:
            raise ValueError("the averaged weights are of another model")
        self._steps = int(state["optimization_step"])
        for shadow, parameter, value in zip(self._shadows, self._parameters, stored, strict=True):
            shadow.copy_(_part(value, parameter))


def _local(parameter: Tensor) -> Tensor:
    """What this process holds of it, sharing memory with the parameter."""
    detached = parameter.detach()
    return detached.to_local() if isinstance(detached, DTensor) else detached


def _whole(part: Tensor, like: Tensor) -> Tensor:
    """The whole tensor of which a process holds `part`, laid out as `like`, on the CPU."""
    if not isinstance(like, DTensor):
        return part.cpu()
    sharded = DTensor.from_local(part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())
    return sharded.full_tensor().cpu()


def _part(whole: Tensor, like: Tensor) -> Tensor:
    """What this process holds of a tensor that all hold whole."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements).to_local()
