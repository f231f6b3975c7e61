"""What a forward and backward pass would take, measured on the meta device: operations, and what is kept in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_BLOCKS = ("JointTransformerBlock", "ConnectorLayer")  # what gradient checkpointing forgets and computes again


@dataclass(frozen=True)
class Footprint:
    """Of one micro-batch.

    Args:
        flops: of forward and backward.
        recomputed: of the blocks' forward pass once more, with gradient checkpointing.
        saved: bytes kept for the backward pass without checkpointing.
        checkpointed: with it: what is outside the blocks, their inputs, and one block's own.
    """

    flops: float
    recomputed: float
    saved: int
    checkpointed: int


def footprint(models: list[nn.Module], forward: Callable[[], Tensor]) -> Footprint:
    """Run `forward` and its backward pass on meta tensors and count.

    Args:
        models: whose parameters are no activations.
        forward: makes what the loss is computed from.
    """
    weights = {_storage(parameter) for model in models for parameter in (*model.parameters(), *model.buffers())}
    ledger = _Ledger(weights)
    blocks = [module for model in models for module in model.modules() if type(module).__name__ in _BLOCKS]
    handles = [handle for block in blocks for handle in ledger.watch(block)]
    with _Operations() as counter, _flash_attention():
        ledger.flops = lambda: counter.total
        with saved_tensors_hooks(ledger.save, lambda kept: kept):
            made = forward()
        made.sum().backward()  # type: ignore[no-untyped-call]
    for handle in handles:
        handle.remove()
    outside = ledger.bytes - sum(ledger.inside)
    checkpointed = outside + sum(ledger.entering) + max(ledger.inside, default=0)
    return Footprint(counter.total, ledger.computing, ledger.bytes, min(checkpointed, ledger.bytes))


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up operations by torch's own formulas (2 a multiply-add), as FlopCounterMode does, but by no module."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=made)
        return made


class _Ledger:
    """Bytes of the distinct tensors that autograd saves, in all and block by block."""

    def __init__(self, known: set[int]) -> None:
        self._known = set(known)
        self._held: list[Any] = []
        self.bytes = 0
        self.inside: list[int] = []
        self.entering: list[int] = []
        self.computing = 0.0
        self.flops: Callable[[], int] = int
        self._before: list[tuple[int, int]] = []

    def save(self, tensor: Tensor) -> Tensor:
        """Count a tensor's storage once; views share it."""
        key = _storage(tensor)
        if key not in self._known:
            self._known.add(key)
            self._held.append(tensor.untyped_storage())  # so that no other takes its place
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor

    def watch(self, block: nn.Module) -> list[Any]:
        """Hooks around a block."""
        return [
            block.register_forward_pre_hook(self._enter, with_kwargs=True),
            block.register_forward_hook(self._leave, with_kwargs=True),
        ]

    def _enter(self, module: nn.Module, arguments: Any, options: dict[str, Any]) -> None:
        tensors = [each for each in (*arguments, *options.values()) if isinstance(each, Tensor)]
        self.entering.append(sum(each.nbytes for each in tensors if each.ndim == 3))  # modulation is one for all
        self._before.append((self.bytes, self.flops()))

    def _leave(self, module: nn.Module, arguments: Any, options: dict[str, Any], made: Any) -> None:
        held, done = self._before.pop()
        self.inside.append(self.bytes - held)
        self.computing += self.flops() - done


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


@contextmanager
def _flash_attention() -> Iterator[None]:
    """Attention as a GPU's fused kernel runs it, which keeps no scores; on the meta device torch would take matmuls."""
    original = functional.scaled_dot_product_attention

    def fused(query: Tensor, key: Tensor, value: Tensor, *arguments: Any, **options: Any) -> Tensor:
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        made: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
        return made

    functional.scaled_dot_product_attention = fused
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = original
