"""Torch modules to ONNX nodes: one stage traced by torch.export, optimised, its weights left as inputs.

With the weights as inputs nothing is folded into them: they keep their names and are never copied, and the
nodes serve every module of the same structure.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass

import onnx_ir as ir
import torch
from onnxscript import optimizer
from torch import nn

from .graph_specs import OPSET, Stage
from .portions import tensors_of


@dataclass(frozen=True)
class Template:
    """A stage's nodes; the graph's inputs are the stage's own and then its weights, in the order of `weights`."""

    graph: ir.Graph
    weights: tuple[str, ...]


def trace(stage: Stage, opset: int = OPSET) -> Template:
    """Trace a stage's module with its named dimensions dynamic."""
    model = _export(stage, opset)
    weights = tuple(name for name in tensors_of(stage.module) if name in model.graph.initializers)
    for name in weights:
        value = model.graph.initializers.pop(name)
        value.const_value = None
        model.graph.inputs.append(value)
    optimizer.optimize_ir(model)
    return Template(model.graph, weights)


def structure_of(stage: Stage) -> str:
    """What makes two stages' nodes the same: modules, signatures, and the names and shapes of the weights."""
    signature = [(spec.dtype, spec.shape) for spec in (*stage.inputs, *stage.outputs)]
    weights = [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors_of(stage.module).items()]
    return f"{stage.module!r} {signature} {weights}"


def _export(stage: Stage, opset: int) -> ir.Model:
    dynamic = tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, side in enumerate(tensor.shape) if isinstance(side, str)}
        for tensor in stage.inputs
    )
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            _in_memory(stage.module),
            stage.example(),
            dynamo=True,
            opset_version=opset,
            input_names=[tensor.name for tensor in stage.inputs],
            dynamic_shapes=dynamic,
            optimize=False,
            verbose=False,
        )
    if program is None:
        raise RuntimeError(f"the exporter returned nothing for {stage.path or stage.module}")
    return program.model


def _in_memory(module: nn.Module) -> nn.Module:
    """A module that tracing takes: one on the meta device gets memory, which is never written to nor read."""
    if not any(parameter.is_meta for parameter in module.parameters()):
        return module
    return copy.deepcopy(module).to_empty(device="cpu")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's chatter: stdout belongs to the command's result."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
