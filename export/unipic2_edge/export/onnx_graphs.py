"""Torch modules to ONNX graphs: traced by torch.export, cleaned, with their weights left outside."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import onnx_ir as ir
import torch

from unipic2_edge.runtime.files import write_bytes

from .graph_specs import GraphSpec
from .weights import EXTERNAL_FROM

OPSET = 20  # the newest that JetPack 6's TensorRT 10.3 parses; attention stays in the decomposed form that all fuse


def trace(spec: GraphSpec) -> ir.Model:
    """Trace a graph; its initialisers still point at the module's own tensors (no copy is made)."""
    dynamic = tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, side in enumerate(tensor.shape) if isinstance(side, str)}
        for tensor in spec.inputs
    )
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            spec.module,
            spec.example(),
            dynamo=True,
            opset_version=OPSET,
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
            dynamic_shapes=dynamic,
            optimize=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError(f"the exporter returned nothing for {spec.name}")
    model = program.model
    _rename_dimensions(model, spec)
    _name_weights(model, spec.name)
    _strip(model)
    return model


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


def _rename_dimensions(model: ir.Model, spec: GraphSpec) -> None:
    """Give inputs and outputs the signature's dimension names instead of the tracer's s0, s1, …"""
    for values, tensors in ((model.graph.inputs, spec.inputs), (model.graph.outputs, spec.outputs)):
        for value, tensor in zip(values, tensors, strict=True):
            value.shape = ir.Shape(tensor.shape)


def _name_weights(model: ir.Model, graph: str) -> None:
    """Name every initialiser after its module path: folded ones (a transposed MatMul weight) after their user's."""
    taken: set[str] = set()
    for value in list(model.graph.initializers.values()):
        name = value.name or ""
        if "." not in name:
            name = _user_path(value) or f"constant.{len(taken)}"
        name = f"{graph}.{name}"
        while name in taken:
            name += "_"
        taken.add(name)
        model.graph.initializers.pop(value.name)
        value.name = name
        model.graph.initializers[name] = value


def _user_path(value: ir.Value) -> str | None:
    """The module path of the first node that uses a value, from the exporter's metadata."""
    for node, _ in value.uses():
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
        if scopes:
            path = [scope.strip(" '\"") for scope in scopes.strip("[]").split(",")]
            module = next((scope for scope in reversed(path[:-1]) if scope), None)
            return f"{module}.{node.op_type.lower()}" if module else None
    return None


def _strip(model: ir.Model) -> None:
    """Remove metadata and doc strings: they hold stack traces with the exporting machine's paths."""
    model.metadata_props.clear()
    model.doc_string = None
    model.producer_version = None
    model.graph.metadata_props.clear()
    model.graph.doc_string = None
    for function in list(model.functions.values()):
        function.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for output in node.outputs:
            output.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()


def weights_of(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """The initialisers that belong in the weights file, by name."""
    return {
        name: value.const_value
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and value.const_value.nbytes >= EXTERNAL_FROM
    }


def write_graph(path: Path, model: ir.Model, location: str, places: Mapping[str, tuple[int, int]]) -> None:
    """Write the graph with its weights as external data in the file named `location` (a bare file name).

    Raises:
        OutputError, WorkError: the file cannot be written.
    """
    for name, tensor in weights_of(model).items():
        offset, length = places[name]
        model.graph.initializers[name].const_value = ir.ExternalTensor(
            location, offset, length, tensor.dtype, shape=ir.Shape(tensor.shape), name=name
        )
    write_bytes(path, ir.to_proto(model).SerializeToString(deterministic=True))
