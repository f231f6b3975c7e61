"""A graph computed by PyTorch in float32, stage by stage, from the checkpoint: what every bundle is held against.

It is a `Session` like any other, so the runtime's own pipeline leads it: the same tokens, noise, schedule and guidance
as in a served picture. Weights that are not in memory are read one stage at a time and let go.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unipic2_edge.runtime.bundle import Graph
from unipic2_edge.runtime.session import Array, Arrays, check_inputs

from .graph_specs import GraphSpec, Stage

#: Called with a stage's place (graph and path) and its module in memory, before it runs; may change the module.
Prepare = Callable[[str, nn.Module], None]
#: Called with a stage's place and the values it made.
Observe = Callable[[str, Sequence[Tensor]], None]
_KEPT_PARAMETERS = 400_000_000  # 1.6 GB of float32


class TorchSession:
    """One graph in PyTorch.

    Args:
        spec: the graph, in float32.
        prepare: may hook into a stage's module, or change it, each time it is made.
        observe: is shown what every stage makes.
    """

    def __init__(self, spec: GraphSpec, prepare: Prepare | None = None, observe: Observe | None = None) -> None:
        self.graph = Graph(file=spec.name, component=spec.component, inputs=spec.inputs, outputs=spec.outputs)
        self.observe = observe
        self._spec, self._prepare = spec, prepare
        parameters = sum(parameter.numel() for stage in spec.stages for parameter in stage.module.parameters())
        self._keeps = parameters <= _KEPT_PARAMETERS
        self._kept: dict[int, nn.Module] = {}

    def close(self) -> None:
        """Give its memory back (see `Session.close`)."""
        self._kept.clear()

    @torch.inference_mode()
    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Compute the graph's outputs from its inputs."""
        check_inputs(self.graph, inputs)
        values = {name: _tensor(array) for name, array in inputs.items()}
        for index, stage in enumerate(self._spec.stages):
            made = self._module(index, stage)(*(values[spec.name] for spec in stage.inputs))
            results = made if isinstance(made, tuple) else (made,)
            values |= {spec.name: value for spec, value in zip(stage.outputs, results, strict=True)}
            if self.observe is not None:
                self.observe(place_of(self._spec, stage), results)
        return {spec.name: values[spec.name].numpy() for spec in self._spec.outputs}

    def _module(self, index: int, stage: Stage) -> nn.Module:
        if index not in self._kept:
            module = in_memory(stage)
            if self._prepare is not None:
                self._prepare(place_of(self._spec, stage), module)
            if not self._keeps:
                return module
            self._kept[index] = module
        return self._kept[index]


def place_of(spec: GraphSpec, stage: Stage) -> str:
    """A stage's place: what its weights' names begin with."""
    return f"{spec.prefix}.{stage.path}" if stage.path else spec.prefix


def in_memory(stage: Stage) -> nn.Module:
    """A stage's module with its weights, of its own."""
    if "" in stage.loads:
        return stage.loads[""]()
    module = copy.deepcopy(stage.module)
    for child, load in stage.loads.items():
        module.set_submodule(child, load())
    return module.eval()


def linears(place: str, module: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """The matrices in a stage's module, by their layers' names in the bundle."""
    for name, child in module.named_modules():
        if isinstance(child, nn.Linear):
            yield f"{place}.{name}" if name else place, child


def _tensor(array: Array) -> Tensor:
    """Without a copy; what is read-only is not written to by a forward."""
    value: Any = array
    return torch.from_numpy(value if value.flags.writeable else value.copy())
