"""The second compiler of the `cpu` target: OpenVINO's form of a graph, its weights left where they are.

See `runtime.openvino_session` for the engine's parts. The graph is read with its weights mapped in memory; the
constants that came from the weights file are then made inputs again, so that what is stored are operators.
"""

from __future__ import annotations

import io
import json
import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.engine import EngineSpec, Scalar
from unipic2_edge.runtime.errors import RequestError, WorkError
from unipic2_edge.runtime.openvino_session import (
    CONSTANTS,
    GRAPH,
    WEIGHTS,
    Places,
    core,
    has_bfloat16,
    import_openvino,
    what_it_said,
)

from .compiler import Compiled, Progress
from .in_memory import in_memory
from .weights import Tensor, graph_weights

INFERENCE_PRECISIONS = ("f32", "bf16")
#: Names that OpenVINO makes up end in a number that it counts up while it runs.
_COUNTED = re.compile(r"_\d+$")


def openvino_settings(precision: str) -> dict[str, Scalar]:
    """What an engine is made with; `precision` is what products are computed in.

    Raises:
        RequestError: this processor has no such products.
    """
    if precision == "bf16" and not has_bfloat16():
        raise RequestError(
            "this processor has no bfloat16 products (AMX or AVX512-BF16)", "leave --inference-precision at f32"
        )
    return {"form": "ir", "inference_precision": precision}


def openvino_version() -> str:
    """OpenVINO's release, without its build number."""
    return str(import_openvino().__version__).partition("-")[0]


class OpenVINOCompiler:
    """Turns graphs into OpenVINO's form, in this process."""

    suffix = ".zip"
    isolated = False

    def compile(self, bundle: Bundle, spec: EngineSpec, output: Path, progress: Progress) -> Compiled:
        """Turn one graph into an engine (see `Compiler.compile`)."""
        library, path = import_openvino(), bundle.weights(spec.graph)
        weights = np.memmap(path, np.uint8, "r")
        try:
            graph = in_memory(bundle.read(bundle.graph(spec.graph).file), path.name, weights.ctypes.data)
            model = core().read_model(io.BytesIO(graph))
            places = _free_weights(library, model, graph_weights(bundle, spec.graph), weights)
            _write(library, model, places, output)
        except (RuntimeError, ValueError) as error:
            raise WorkError(
                f"OpenVINO could not compile {spec.graph}: {what_it_said(error)}",
                "use --backend onnxruntime, or export the checkpoint again",
            ) from error
        progress("converted", 1.0)
        return Compiled()


def _free_weights(library: Any, model: Any, tensors: dict[str, Tensor], weights: NDArray[np.uint8]) -> Places:
    """Make inputs of the constants that lie in the weights file; where each of them lies, by name.

    A constant that has a tensor's name but other bytes is left alone: OpenVINO made it of something else.
    """
    places: Places = {}
    parameters = []
    for node in model.get_ordered_ops():
        tensor = tensors.get(node.friendly_name)
        if tensor is None or node.get_type_name() != "Constant" or node.friendly_name in places:
            continue
        held = node.get_tensor_view().data.reshape(-1).view(np.uint8)
        if not np.array_equal(held, weights[tensor.offset : tensor.offset + tensor.length]):
            continue
        parameter = library.op.Parameter(node.get_element_type(), node.get_output_partial_shape(0))
        parameter.set_friendly_name(node.friendly_name)
        node.output(0).replace(parameter.output(0))
        parameters.append(parameter)
        places[node.friendly_name] = (tensor.offset, tensor.length)
    model.add_parameters(parameters)
    return places


def _write(library: Any, model: Any, places: Places, output: Path) -> None:
    """Write an engine; the same graph gives the same bytes."""
    for index, node in enumerate(model.get_ordered_ops()):
        if _COUNTED.search(node.friendly_name) and node.friendly_name not in places:
            node.set_friendly_name(f"{node.get_type_name()}.{index}")
    with tempfile.TemporaryDirectory() as folder:
        graph, constants = Path(folder, GRAPH), Path(folder, CONSTANTS)
        library.serialize(model, graph, constants)
        parts = {
            GRAPH: graph.read_bytes(),
            CONSTANTS: constants.read_bytes(),
            WEIGHTS: json.dumps(places, sort_keys=True).encode(),
        }
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
