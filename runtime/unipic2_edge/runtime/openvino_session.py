"""The OpenVINO adapter: a graph on the processor, from the engine that `build` made of it.

An engine is a zip of OpenVINO's form of the graph, in which the bundle's weights are inputs:

    graph.xml       the operators (OpenVINO IR)
    constants.bin   the constants that the graph itself brought along: axes, shapes, a few scalars
    weights.json    input → [offset, length] in the component's weights file, in bytes

Those inputs become constants again here, which point into the verified, mapped weights file: nothing is copied or
stored twice, and OpenVINO opens no file at all. What is left for opening is laying the weights out for this
processor, so an engine serves any of them.
"""

from __future__ import annotations

import io
import logging
import threading
import zipfile
from functools import cache
from math import prod
from typing import Any

import msgspec
import numpy as np

from .bundle import Bundle
from .engine import AGAIN, Engine, read_engine_bytes
from .errors import BundleError, MemoryRanOutError, MissingDependencyError, WorkError
from .session import Array, Arrays, check_inputs, stored_dtype

logger = logging.getLogger(__name__)

#: The parts of an engine's file.
GRAPH, CONSTANTS, WEIGHTS = "graph.xml", "constants.bin", "weights.json"

#: Stands in graphs whose activations are quantised.
_QUANTISED = b'type="FakeQuantize"'

Places = dict[str, tuple[int, int]]


class OpenVINOSession:
    """A graph on OpenVINO's CPU plugin. Calls from several threads run one after another.

    Args:
        bundle: the opened bundle.
        engine: the graph's engine.
        threads: threads inside one operator; None lets OpenVINO take one per physical core.

    Raises:
        MissingDependencyError: openvino is not installed.
        BundleError: the engine or its weights are missing or damaged.
        WorkError: OpenVINO refuses the graph.
    """

    def __init__(self, bundle: Bundle, engine: Engine, threads: int | None = None) -> None:
        library = import_openvino()
        name = engine.spec.graph
        self.graph = bundle.graph(name)
        xml, constants, places = _unpack(read_engine_bytes(bundle, engine), name)
        self._weights = np.memmap(bundle.weights(name), np.uint8, "r")
        properties = _properties(str(engine.spec.settings.get("inference_precision", "f32")), threads)
        if _QUANTISED in xml and saturates():
            logger.info("8-bit products saturate on this processor: %s computes them in float32", name)
            properties["LP_TRANSFORMS_MODE"] = "NO"
        try:
            model = core().read_model(xml, library.Tensor(constants))
            _bind(library, model, places, self._weights, {spec.name for spec in self.graph.inputs})
            compiled = core().compile_model(model, "CPU", properties)
            self._outputs = {spec.name: compiled.output(spec.name) for spec in self.graph.outputs}
            self._request: Any = compiled.create_infer_request()
        except RuntimeError as error:
            raise WorkError(
                f"OpenVINO could not open {name}: {what_it_said(error)}",
                "build with --backend onnxruntime, or see `unipic2-edge doctor`",
            ) from error
        self._lock = threading.Lock()

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Compute the graph's outputs from its inputs (see `Session.run`)."""
        check_inputs(self.graph, inputs)
        with self._lock:
            try:
                values = self._request.infer(self._typed(inputs), share_inputs=True)
            except RuntimeError as error:
                kind = MemoryRanOutError if "alloc" in str(error) else WorkError
                raise kind(
                    f"OpenVINO failed in {self.graph.file}: {what_it_said(error)}",
                    "a smaller picture or fewer pictures at once need less memory",
                ) from error
            return {
                spec.name: values[output].view(stored_dtype(spec))
                for spec, output in zip(self.graph.outputs, self._outputs.values(), strict=True)
            }

    def _typed(self, inputs: Arrays) -> dict[str, Any]:
        """Inputs as OpenVINO takes them; bits of bfloat16 need its own type."""
        library, typed = import_openvino(), dict[str, Any](inputs)
        for spec in self.graph.inputs:
            if spec.dtype == "bfloat16":
                bits, kind = inputs[spec.name], library.Type.bf16
                shape = library.Shape(bits.shape)
                typed[spec.name] = library.Tensor(bits, shape, kind) if bits.size else library.Tensor(kind, shape)
        return typed

    def close(self) -> None:
        """Give its memory back."""
        self._request, self._outputs = None, {}
        del self._weights


def import_openvino() -> Any:
    """The openvino module.

    Raises:
        MissingDependencyError: not installed, or its libraries do not load.
    """
    try:
        import openvino
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            "OpenVINO is not installed", 'install it with: pip install "unipic2-edge[openvino]"'
        ) from error
    return openvino


@cache
def core() -> Any:
    """OpenVINO's front door, one for the process."""
    return import_openvino().Core()


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 by itself (AMX or AVX512-BF16)."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@cache
def saturates() -> bool:
    """Whether this processor's products of 8-bit numbers overflow, found by trying one.

    x86 without VNNI adds pairs of products in 16 bits (`vpmaddubsw`): with weights and activations near their
    largest, sums are silently cut off, by a tenth of the result for random ones.
    """
    library = import_openvino()
    ops, largest, length = library.opset13, 127, 256
    x = ops.parameter([1, length], np.float32)
    bounds = [ops.constant(np.float32(bound)) for bound in (-128, 127, -128, 127)]
    weights = ops.convert(ops.constant(np.full((length, 64), largest, np.int8)), np.float32)
    scaled = ops.multiply(weights, ops.constant(np.full((1, 64), 0.5, np.float32)))
    product = ops.matmul(ops.fake_quantize(x, *bounds, 256), scaled, False, False)
    compiled = core().compile_model(library.Model([product], [x]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled.create_infer_request().infer({0: np.full((1, length), largest, np.float32)})[0]
    return not np.allclose(found, 0.5 * length * largest * largest, rtol=1e-3)


def what_it_said(error: Exception) -> str:
    """The sentence in an OpenVINO message: it stands among the places in its sources where it was raised."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith("Exception from ") and " failed at " not in line]
    reasons = [line.removeprefix("-- ") for line in said if line.startswith("-- ")]  # in a summary of several
    return next(iter(reasons + said), type(error).__name__)


def _properties(precision: str, threads: int | None) -> dict[str, Any]:
    """One stream that is done soon; its threads go where the system puts them, since others may be at work too."""
    properties: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "ENABLE_CPU_PINNING": False,
    }
    return properties if threads is None else properties | {"INFERENCE_NUM_THREADS": threads}


def _unpack(data: bytes, name: str) -> tuple[bytes, Array, Places]:
    """An engine's graph, constants and places of weights.

    Raises:
        BundleError: it is no engine of OpenVINO's.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as parts:
            places = msgspec.json.decode(parts.read(WEIGHTS), type=Places)
            return parts.read(GRAPH), np.frombuffer(parts.read(CONSTANTS), np.uint8), places
    except (zipfile.BadZipFile, KeyError, msgspec.MsgspecError) as error:
        raise BundleError(f"the engine of {name} is damaged: {error}", AGAIN) from error


def _bind(library: Any, model: Any, places: Places, weights: Array, inputs: set[str]) -> None:
    """Put constants that point into the weights file in the place of a graph's weight inputs.

    Raises:
        BundleError: the engine does not say where they lie, or not as many bytes as they have.
    """
    for parameter in model.get_parameters():
        name = parameter.friendly_name
        if inputs & set(parameter.output(0).get_names()):  # the friendly name of an input may be another
            continue
        offset, length = places.get(name, (0, 0))
        shape, kind = parameter.get_output_shape(0), parameter.get_element_type()
        if not 0 <= offset <= offset + length <= weights.size or length != _stored_bytes(shape, kind):
            raise BundleError(f"the engine is damaged: it has no place for the weights {name}", AGAIN)
        tensor = library.Tensor(weights[offset : offset + length], shape, kind)
        constant = library.op.Constant(tensor, shared_memory=True)
        constant.set_friendly_name(name)
        parameter.output(0).replace(constant.output(0))
        model.remove_parameter(parameter)


def _stored_bytes(shape: Any, kind: Any) -> int:
    """The bytes of a tensor of a shape and an OpenVINO type; 4-bit numbers lie two in a byte."""
    return (int(prod(shape)) * int(kind.bitwidth) + 7) // 8
