"""`train --dry-run`: what a recipe would train, and the memory, time and disk that takes, without weights or data.

Weights are counted on the meta device, operations and what is kept for the backward pass are measured there
(`footprint.py`), the rest is arithmetic that is shown. A GPU's allocator and libraries take a few GB more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import nn

from ..recipe import Recipe
from .blueprint import Blueprint, Micro, blueprint
from .footprint import Footprint, footprint

_GB = 1e9
_BLOCKS = ("JointTransformerBlock", "ConnectorLayer", "Qwen2_5_VLDecoderLayer", "CLIPEncoderLayer", "T5Block")


@dataclass(frozen=True)
class Hardware:
    """What it would run on: `gpus` of `memory` GB and `tflops` TFLOP/s at most, of which a share `mfu` is used."""

    gpus: int = 1
    memory: float = 80
    tflops: float = 989  # an H100 SXM's dense bf16, by its datasheet
    mfu: float = 0.4


@dataclass(frozen=True)
class PartSize:
    """One part: its parameters and how many of them are trained."""

    name: str
    parameters: int
    trained: int
    dtype: str


@dataclass(frozen=True)
class Memory:
    """GB a GPU, whole on each (DDP) or sharded (FSDP2)."""

    weights: float
    gradients: float
    optimizer: float
    average: float
    frozen: float
    gathered: float  # what computing needs whole: bf16 copies of fp32 weights, or the blocks at hand
    activations: float
    activations_checkpointed: float

    def total(self, checkpointing: bool) -> float:
        """All of it, with gradient checkpointing or without."""
        standing = self.weights + self.gradients + self.optimizer + self.average + self.frozen + self.gathered
        return standing + (self.activations_checkpointed if checkpointing else self.activations)


@dataclass(frozen=True)
class DryRun:
    """What was found."""

    recipe: Recipe
    hardware: Hardware
    parts: list[PartSize]
    whole: Memory
    sharded: Memory
    tflop_per_step: float
    seconds_per_step: float
    state_gb: float
    besides: str

    def result(self) -> dict[str, object]:
        """For --json."""
        checkpointing = self.recipe.gradient_checkpointing
        totals = {"total_gb": self.whole.total(checkpointing), "total_gb_sharded": self.sharded.total(checkpointing)}
        return {
            "recipe": self.recipe.name,
            "stage": self.recipe.stage,
            "hardware": asdict(self.hardware),
            "parts": [asdict(part) for part in self.parts],
            "memory_gb": asdict(self.whole),
            "memory_gb_sharded": asdict(self.sharded),
            **totals,
            "tflop_per_step": self.tflop_per_step,
            "seconds_per_step": self.seconds_per_step,
            "state_gb": self.state_gb,
            "not_counted": self.besides,
        }

    def lines(self) -> list[str]:
        """For people."""
        return [*self._parts(), "", *self._memory(), "", *self._time()]

    def _parts(self) -> list[str]:
        recipe = self.recipe
        rows = recipe.batch_size * recipe.gradient_accumulation * self.hardware.gpus
        lines = [
            f"{recipe.name}: stage {recipe.stage}, {recipe.batch_size} rows × {recipe.gradient_accumulation} "
            f"micro-batches × {self.hardware.gpus} GPUs = {rows} samples a step",
            "",
            f"{'part':<18}{'parameters':>14}{'trained':>16}{'frozen':>16}  kept in",
        ]
        for part in self.parts:
            frozen = part.parameters - part.trained
            lines.append(f"{part.name:<18}{part.parameters:>14,}{part.trained:>16,}{frozen:>16,}  {part.dtype}")
        total, trained = sum(part.parameters for part in self.parts), sum(part.trained for part in self.parts)
        return [*lines, f"{'together':<18}{total:>14,}{trained:>16,}{total - trained:>16,}"]

    def _memory(self) -> list[str]:
        names = {
            "weights": "trained weights, float32",
            "gradients": "gradients, float32",
            "optimizer": f"{self.recipe.optimizer.name}'s state, float32",
            "average": f"weight average{'' if self.recipe.ema_decay else ' (none)'}",
            "frozen": "frozen parts",
            "gathered": "weights gathered or cast to compute",
            "activations": "kept for the backward pass",
            "activations_checkpointed": "  with gradient_checkpointing",
        }
        lines = [f"{'GB a GPU':<40}{'one GPU or DDP':>16}{f'FSDP2 on {self.hardware.gpus}':>16}"]
        for field, name in names.items():
            lines.append(f"{name:<40}{getattr(self.whole, field):>16.1f}{getattr(self.sharded, field):>16.1f}")
        for checkpointing in (False, True):
            name = f"together, {'with' if checkpointing else 'without'} checkpointing"
            chosen = " ←" if checkpointing == self.recipe.gradient_checkpointing else ""
            totals = [memory.total(checkpointing) for memory in (self.whole, self.sharded)]
            cells = "".join(f"{total:>10.1f} {self._fits(total):>5}" for total in totals)
            lines.append(f"{name:<40}{cells}{chosen}")
        return [
            *lines,
            "(allocator, libraries and communication take some GB more; sample grids are not counted)",
        ]

    def _fits(self, total: float) -> str:
        return "fits" if total <= 0.92 * self.hardware.memory else "> GPU"

    def _time(self) -> list[str]:
        hardware, schedule = self.hardware, self.recipe.schedule
        hours = self.seconds_per_step * schedule.steps / 3600
        rows = self.recipe.batch_size * self.recipe.gradient_accumulation * hardware.gpus
        keep = self.recipe.logging.keep_states
        note = [f"(operations are of {self.besides})"] if self.besides else []
        return [
            f"a step: {self.tflop_per_step:,.0f} TFLOP on {hardware.gpus} GPUs; at {hardware.mfu:.0%} of "
            f"{hardware.tflops:g} TFLOP/s each {self.seconds_per_step:.3g} s, "
            f"{rows / self.seconds_per_step:.3g} samples/s",
            f"{schedule.steps:,} steps: {hours:,.1f} h",
            f"a state on disk: {self.state_gb:.1f} GB, {keep} kept and one being written: "
            f"{(keep + 1) * self.state_gb:.1f} GB",
            *note,
        ]


def planned_flops(recipe: Recipe) -> float:
    """Operations of one step in one process, forward and backward, averaged over the recipe's tasks and sizes.

    Raises:
        RecipeError: its config or stage cannot be drawn up.
    """
    plan = blueprint(recipe, _dtype(recipe))
    return _step_flops(recipe, plan, _counted(recipe, plan))


def dry_run(recipe: Recipe, hardware: Hardware) -> DryRun:
    """Measure a recipe.

    Raises:
        RecipeError: its config or stage cannot be drawn up.
    """
    plan = blueprint(recipe, _dtype(recipe))
    parts = [_size(name, model, "float32") for name, model in plan.trained.items()]
    parts += [_size(name, model) for name, model in plan.frozen.items()]
    counted = _counted(recipe, plan)
    heaviest = max(counted.values(), key=lambda each: each.saved)
    step = _step_flops(recipe, plan, counted) * hardware.gpus
    trained = sum(part.trained for part in parts)
    buffers = sum(each.numel() for model in plan.trained.values() for each in model.buffers())
    state = 4 * (trained * (1 + _moments(recipe) + bool(recipe.ema_decay)) + buffers) + _frozen_inside(plan) * 4
    return DryRun(
        recipe,
        hardware,
        parts,
        _memory(recipe, plan, heaviest, 1),
        _memory(recipe, plan, heaviest, hardware.gpus),
        step / 1e12,
        step / hardware.gpus / (hardware.tflops * 1e12 * hardware.mfu),
        state / _GB,
        plan.besides,
    )


def _memory(recipe: Recipe, plan: Blueprint, most: Footprint, gpus: int) -> Memory:
    """With `gpus` over 1 what is trained is sharded; what stands beside it never is."""
    models = list(plan.trained.values())
    trained = sum(each.numel() for model in models for each in model.parameters() if each.requires_grad)
    buffers = sum(each.numel() * 4 for model in models for each in model.buffers())
    frozen = sum(_bytes(model) for model in plan.frozen.values()) + buffers + _frozen_inside(plan) * 4 / gpus
    half = recipe.mixed_precision != "no"
    if gpus == 1:
        gathered = 2 * trained if half else 0  # autocast's copies
    else:
        sizes = [_count(block.parameters()) for model in models for block in _blocks(model)]
        rest = trained - sum(sizes)  # the root's group stays whole from forward to backward
        gathered = (2 if half else 4) * (2 * max(sizes, default=0) + rest)
    return Memory(
        weights=4 * trained / gpus / _GB,
        gradients=4 * trained / gpus / _GB,
        optimizer=4 * _moments(recipe) * trained / gpus / _GB,
        average=4 * trained / gpus / _GB if recipe.ema_decay else 0.0,
        frozen=frozen / _GB,
        gathered=gathered / _GB,
        activations=most.saved / _GB,
        activations_checkpointed=most.checkpointed / _GB,
    )


def _micros(recipe: Recipe) -> dict[Micro, float]:
    """Every shape of micro-batch with its share of them; a picture on its side takes what it takes standing."""
    data = recipe.data
    edits = {"autoencoder": 0.0, "text": 0.0}.get(recipe.stage, data.edit_share)
    made: dict[Micro, float] = {}
    side = data.shards.side if data.kind == "shards" else 0  # whose buckets have about as many pixels each
    sizes = {(side, side): 1.0} if side else dict(zip(data.sizes, data.size_weights, strict=True))
    for (width, height), weight in sizes.items():
        for edit, share in ((False, 1 - edits), (True, edits)):
            micro = Micro(recipe.batch_size, max(width, height), min(width, height), edit)
            if share:
                made[micro] = made.get(micro, 0.0) + share * weight / sum(sizes.values())
    return made


def _dtype(recipe: Recipe) -> torch.dtype:
    """In which the matrix products are computed; fp16 takes what bf16 does."""
    return torch.float32 if recipe.mixed_precision == "no" else torch.bfloat16


def _counted(recipe: Recipe, plan: Blueprint) -> dict[Micro, Footprint]:
    return {micro: footprint(plan.computing, partial(plan.forward, micro)) for micro in _micros(recipe)}


def _step_flops(recipe: Recipe, plan: Blueprint, counted: dict[Micro, Footprint]) -> float:
    """In one process; with gradient checkpointing the blocks' forward pass counts once more."""
    total = 0.0
    for micro, share in _micros(recipe).items():
        found = counted[micro]
        again = found.recomputed if recipe.gradient_checkpointing else 0.0
        total += share * (found.flops + again + plan.extra_flops(micro))
    return total * recipe.gradient_accumulation


def _moments(recipe: Recipe) -> int:
    """State values a weight: AdamW's two; Muon's matrices have one, and nearly all weights are matrices."""
    return 2 if recipe.optimizer.name == "adamw" else 1


def _size(name: str, model: nn.Module, dtype: str | None = None) -> PartSize:
    parameters = list(model.parameters())
    trained = _count(each for each in parameters if each.requires_grad)
    return PartSize(name, _count(parameters), trained, dtype or str(parameters[0].dtype).removeprefix("torch."))


def _frozen_inside(plan: Blueprint) -> int:
    """Parameters in what the loop holds that are not trained."""
    return _count(each for model in plan.trained.values() for each in model.parameters() if not each.requires_grad)


def _blocks(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if type(module).__name__ in _BLOCKS]


def _count(parameters: Iterable[torch.Tensor]) -> int:
    return sum(each.numel() for each in parameters)


def _bytes(model: nn.Module) -> int:
    return sum(each.nbytes for each in (*model.parameters(), *model.buffers()))
