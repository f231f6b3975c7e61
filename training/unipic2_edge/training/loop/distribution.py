"""What accelerate is asked for: one process or many, whole or sharded (DDP, FSDP2), as its launcher was told.

accelerate launch --config_file training/configs/fsdp2-8x80gb.yaml -m unipic2_edge.runtime.cli train RECIPE
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    FullyShardedDataParallelPlugin,
    gather_object,
)
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

from ..errors import RecipeError, RequestError
from .share import Share

#: What is gathered at a time where a model is sharded; the rest of it is one group more.
_BLOCKS = {
    "QueryingConditioner",  # of the joint model; samples call its parts by themselves
    "KontextTransformer",
    "JointTransformerBlock",
    "ConnectorLayer",
    "Qwen2_5_VLDecoderLayer",
    "Qwen2_5_VLVisionBlock",
    "CLIPEncoderLayer",
    "T5Block",
}


class Distribution:
    """The processes of a run, and a model spread over them.

    Args:
        mixed_precision: as in the recipe.
        idle_parameters: whether a step may leave some parameters without gradient.

    Raises:
        RequestError: the launcher asks for FSDP of version 1.
    """

    def __init__(self, mixed_precision: str, idle_parameters: bool = False) -> None:
        self.accelerator = Accelerator(
            mixed_precision=mixed_precision,
            cpu=not torch.cuda.is_available(),
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=idle_parameters)],
        )
        self._shard_on_processors(mixed_precision)
        self.sharded = self.accelerator.distributed_type == DistributedType.FSDP
        if self.sharded and not self.accelerator.is_fsdp2:
            raise RequestError("FSDP of version 1 is not supported", "set fsdp_version: 2, as training/configs do")
        self.share = Share(self.accelerator.process_index, self.accelerator.num_processes)
        self._blank: nn.Module | None = None

    def _shard_on_processors(self, mixed_precision: str) -> None:
        """accelerate reads FSDP's settings for accelerators only; torch shards over gloo all the same."""
        state = self.accelerator.state
        wanted = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
        if wanted and state.distributed_type == DistributedType.MULTI_CPU:
            plugin = FullyShardedDataParallelPlugin()
            if mixed_precision != "no":
                plugin.set_mixed_precision(mixed_precision)
            state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, plugin
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP  # as accelerate does

    def prepare(self, model: nn.Module, optimizers: list[Optimizer]) -> tuple[nn.Module, list[Any]]:
        """The model spread over the processes, and the optimisers on what this process holds of it.

        Raises:
            RecipeError: sharding with more than one optimiser, which accelerate cannot save.
        """
        if self.sharded:
            if len(optimizers) != 1:
                raise RecipeError("Muon does not shard its matrices", 'set optimizer.name = "adamw" under FSDP2')
            self._blank = blank_copy(model)
            present = {type(module).__name__ for module in model.modules()}
            plugin = self.accelerator.state.fsdp_plugin
            plugin.transformer_cls_names_to_wrap = sorted(_BLOCKS & present)
        prepared, *rest = self.accelerator.prepare(model, *optimizers)
        return prepared, rest

    def plain(self, model: nn.Module) -> nn.Module:
        """The prepared model without what data parallelism wrapped around it (sharded ones stay sharded)."""
        unwrapped: nn.Module = self.accelerator.unwrap_model(model, keep_torch_compile=True)
        return unwrapped

    def gathered(self, model: nn.Module) -> nn.Module | None:
        """The model with its whole weights, as it was before `prepare`; in the main process alone, else none."""
        if not self.sharded:
            return self.plain(model) if self.accelerator.is_main_process else None
        weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if not self.accelerator.is_main_process or self._blank is None:
            return None
        self._blank.load_state_dict(weights, assign=True)
        return self._blank.eval()

    def let_go(self, model: nn.Module) -> None:
        """Free what a forward pass alone left gathered: it would not follow the next values of the shards."""
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def without_sync(self, model: nn.Module, needed: bool) -> AbstractContextManager[None]:
        """Gradients stay where they are in this block, unless `needed`."""
        context: AbstractContextManager[None] = nullcontext() if needed else self.accelerator.no_sync(model)
        return context

    def mean(self, value: float) -> float:
        """The mean over all processes."""
        if self.share.world == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.accelerator.device)
        return float(self.accelerator.reduce(tensor, "mean"))

    def averages(self, values: dict[str, float]) -> dict[str, float]:
        """Each value's mean over the processes that have it (stages need not say the same in all of them)."""
        if self.share.world == 1:
            return values
        gathered: dict[str, list[float]] = {}
        for each in gather_object([values]):
            for name, value in each.items():
                gathered.setdefault(name, []).append(value)
        return {name: sum(found) / len(found) for name, found in gathered.items()}

    @contextmanager
    def only_main_writes(self, folder: Path) -> Iterator[Path]:
        """`folder` in the main process, elsewhere one that is thrown away."""
        if self.accelerator.is_main_process:
            yield folder
            return
        with tempfile.TemporaryDirectory() as thrown_away:
            yield Path(thrown_away)


def blank_copy(model: nn.Module) -> nn.Module:
    """A copy of a model whose parameters and saved buffers are on the meta device."""
    saved = model.state_dict(keep_vars=True)
    memo: dict[int, Any] = {}
    for tensor in saved.values():
        empty = torch.empty_like(tensor, device="meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
    return copy.deepcopy(model, memo)
