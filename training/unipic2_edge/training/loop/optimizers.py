"""The optimisers of a recipe: AdamW, or Muon for hidden matrices beside AdamW for everything else."""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim import Optimizer as TorchOptimizer

from ..recipe import Optimizer

_HIDDEN = re.compile(r"(blocks|layers)\.\d+\.(.*\.)?(attn2?|ff|ff_context|self_attn|mlp)\.")
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic coefficients (Jordan et al., Muon, 2024)


def make_optimizers(
    model: nn.Module, recipe: Optimizer, rate: Callable[[str], float] = lambda name: 1.0
) -> list[TorchOptimizer]:
    """The optimisers for the model's trainable parameters; each is in exactly one of them.

    Args:
        model: may be wrapped by accelerate.
        recipe: which optimiser, and its settings.
        rate: the factor on the learning rate for the parameter of a name in the unwrapped model.
    """
    muon: dict[float, list[nn.Parameter]] = defaultdict(list)
    adamw: dict[float, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            hidden = recipe.name == "muon" and parameter.ndim == 2 and _is_hidden(name)
            (muon if hidden else adamw)[rate(name.removeprefix("module."))].append(parameter)
    optimizers: list[TorchOptimizer] = []
    if adamw:
        groups = _groups(adamw, recipe.lr)
        optimizers.append(
            AdamW(groups, lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay, foreach=True)
        )
    if muon:
        optimizers.append(Muon(_groups(muon, recipe.lr), lr=recipe.lr, weight_decay=recipe.weight_decay))
    return optimizers


def _groups(by_rate: dict[float, list[nn.Parameter]], lr: float) -> list[dict[str, Any]]:
    return [{"params": parameters, "lr": lr * factor} for factor, parameters in by_rate.items()]


def _is_hidden(name: str) -> bool:
    """Attention and feed-forward matrices; modulation, embeddings and in/out projections go to AdamW."""
    return bool(_HIDDEN.search(name))


class Muon(TorchOptimizer):
    """Momentum orthogonalised by Newton–Schulz, scaled to AdamW's update RMS of 0.2 (Liu et al., arXiv 2502.16982).

    torch.optim.Muon orthogonalises one matrix at a time in bf16, which a CPU without bf16 units emulates a
    hundred times slower; this one stacks matrices of equal shape and takes bf16 where the device has units for it.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        rounds: int = 5,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "rounds": rounds})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every matrix that has a gradient."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group)
        return loss

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        moved = []
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            gradient = parameter.grad
            if gradient is None:
                continue
            state["momentum"].lerp_(gradient, 1 - group["momentum"])
            moved.append(gradient.lerp(state["momentum"], group["momentum"]))  # Nesterov
        directions = orthogonalised(torch.stack(moved), group["rounds"])
        rows, columns = parameters[0].shape
        scale = 0.2 * max(rows, columns) ** 0.5
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(direction, alpha=-group["lr"] * scale)


def orthogonalised(matrices: Tensor, rounds: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices to [K, m, n], approximately (singular values within 0.7…1.2)."""
    a, b, c = _NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.mT.contiguous() if tall else matrices
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(_product_dtype(matrices.device))
    for _ in range(rounds):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


@functools.cache
def _product_dtype(device: torch.device) -> torch.dtype:
    """bf16 where matrix units take it, else fp32.

    On CPUs that is AMX, or AVX-512 BF16 where it is not Intel's (told by AVX-512 FP16, which is): a quarter of fp32's
    time on an AMD EPYC, 1.5 of it on a Xeon whose AMX is hidden.
    """
    if device.type == "cpu":
        units = torch.cpu.get_capabilities()
        fast = units.get("amx_bf16") or (units.get("avx512_bf16") and not units.get("avx512_fp16"))
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if device.type != "cuda" or torch.cuda.is_bf16_supported() else torch.float32
