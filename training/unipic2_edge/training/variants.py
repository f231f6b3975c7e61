"""Several versions of one denoiser, by name: LoRA adapters on one frozen base, or full copies of it.

Reinforcement and distillation run a denoiser beside its own past, teacher or critic. As LoRAs they share one copy of
the weights, and the adapters switched off are the untouched base.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.utils.checkpoint import checkpoint

from .errors import RecipeError
from .recipe import Adapter
from .transformer import KontextTransformer


class Variants(nn.Module):
    """One denoiser in several variants; at first every one of them is the base, bit for bit.

    Args:
        base: the denoiser; it is taken over and frozen, and is what runs as variant `None`.
        names: of the variants.
        adapter: the LoRA that every variant has; none makes full copies instead.
        trained: those of `names` whose weights require gradients.

    Raises:
        RecipeError: a target of the adapter is no linear layer of the denoiser, or its rank is not positive.
    """

    def __init__(
        self, base: KontextTransformer, names: Sequence[str], adapter: Adapter | None, trained: Sequence[str]
    ) -> None:
        super().__init__()
        self.names, self.adapter, self.trained = tuple(names), adapter, tuple(trained)
        self.base = base.requires_grad_(False)
        copies = {} if adapter is not None else {name: copy.deepcopy(base) for name in names}
        self.copies = nn.ModuleDict(copies)
        if adapter is not None:
            _inject(base, adapter, self.names)
        self._layers: list[Any] = [module for module in base.modules() if isinstance(module, LoraLayer)]
        for name in self.names:
            for parameter in self.parameters_of(name):
                parameter.requires_grad_(name in trained)
        self._switch(None)

    def forward(self, variant: str | None, *arguments: Any, **options: Any) -> Any:
        """Run a variant, or the base where it is `None`, with the denoiser's own arguments."""
        if self.adapter is None:
            return (self.base if variant is None else self.copies[variant])(*arguments, **options)
        with self._active(variant):
            return self.base(*arguments, **options)

    def parameters_of(self, name: str) -> list[nn.Parameter]:
        """The weights that are a variant's own, in an order that is the same for all variants."""
        if self.adapter is None:
            return list(self.copies[name].parameters())
        return [part[name].weight for layer in self._layers for part in (layer.lora_A, layer.lora_B)]

    def variant_of(self, parameter: str) -> str | None:
        """Whose a parameter of this name (as `named_parameters` gives it) is; `None` for the base's."""
        words = parameter.split(".")
        if self.adapter is None:
            return words[1] if words[0] == "copies" else None
        return words[-2] if words[-3] in ("lora_A", "lora_B") else None

    @torch.no_grad()
    def blend(self, target: str, source: str, decay: float) -> None:
        """target ← decay·target + (1 − decay)·source, weight by weight."""
        for old, new in zip(self.parameters_of(target), self.parameters_of(source), strict=True):
            old.lerp_(new, 1 - decay)

    @torch.no_grad()
    def merged(self, name: str | None) -> KontextTransformer:
        """A plain denoiser of a variant, its adapter merged in float32 and rounded once; a copy, in evaluation mode."""
        model: Any = copy.deepcopy(self.base if self.adapter is not None or name is None else self.copies[name])
        layers: dict[str, Any] = {path: layer for path, layer in model.named_modules() if isinstance(layer, LoraLayer)}
        for path, layer in layers.items():
            plain = layer.get_base_layer()
            if name is not None:
                plain.weight.copy_(plain.weight.float() + layer.get_delta_weight(name).float())
            model.set_submodule(path, plain)
        model.disable_gradient_checkpointing()
        merged: KontextTransformer = model.eval()
        return merged

    def compile_blocks(self) -> None:
        """Compile the blocks of the base and of every copy."""
        for model in self._models():
            model.compile_blocks()

    def enable_gradient_checkpointing(self) -> None:
        """Keep only the blocks' inputs for the backward pass, which runs each block again, as the same variant."""

        def recomputed(block: Callable[..., Any], *arguments: Any) -> Any:
            variant = self._variant

            def run(*inputs: Any) -> Any:
                with self._active(variant):
                    return block(*inputs)

            return checkpoint(run, *arguments, use_reentrant=False)

        for model in self._models():
            model.enable_gradient_checkpointing(recomputed)

    def _models(self) -> Iterator[Any]:
        yield self.base
        yield from self.copies.values()

    @contextmanager
    def _active(self, variant: str | None) -> Iterator[None]:
        """The variant in the adapters' layers for the time of the block."""
        before = self._variant
        self._switch(variant)
        try:
            yield
        finally:
            self._switch(before)

    def _switch(self, variant: str | None) -> None:
        # peft's own switches also turn `requires_grad` on and off, and so would stop the training of what they leave.
        self._variant = variant
        for layer in self._layers:
            layer._disable_adapters = variant is None
            layer._active_adapter = [variant]


@torch.no_grad()
def _inject(base: KontextTransformer, adapter: Adapter, names: tuple[str, ...]) -> None:
    """Put a LoRA for each name on the adapter's targets: A alike in all of them, B zero, in float32."""
    if adapter.rank < 1:
        raise RecipeError("the LoRA's rank must be positive", "for instance rank = 32")
    linears = [name for name, module in base.named_modules() if isinstance(module, nn.Linear)]
    for target in adapter.targets:
        if not any(f".{name}".endswith(f".{target}") for name in linears):
            raise RecipeError(f"the denoiser has no linear layer {target} for a LoRA", "for instance to_q or ff.net.2")
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=cast(int, adapter.alpha),  # declared too narrowly
        target_modules=list(adapter.targets),
        init_lora_weights="gaussian",
    )
    for name in names:
        inject_adapter_in_model(config, base, adapter_name=name)
        del base.peft_config  # that there is one already would be warned of
    for layer in (module for module in base.modules() if isinstance(module, LoraLayer)):
        first = _factors(layer, names[0])
        for name in names:
            for factor, like in zip(_factors(layer, name), first, strict=True):
                factor.weight.data = like.weight.data.float().clone()


def _factors(layer: Any, name: str) -> tuple[nn.Linear, nn.Linear]:
    return layer.lora_A[name], layer.lora_B[name]
