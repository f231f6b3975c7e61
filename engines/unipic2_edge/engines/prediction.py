"""What compiling and running an engine will take, said before anything starts.

Formulas over a graph's weights, its operators and its largest shapes; their coefficients were fitted to builds with
TensorRT-RTX 1.7.1 (`bench engines` makes the table they are checked against). Weights and activations are what the
card must hold; times are those of a 4-core machine and mean an order of magnitude.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.engine import EngineSpec
from unipic2_edge.runtime.picker import PROCESSOR_BACKENDS

from .engine_set import Job
from .weights import graph_weights, weights_bytes

#: Resident memory of the compiling process: a floor, two copies of the weights (the builder's and the plan's), and
#: what each byte of the graph's file, a measure of its operators, costs the compiler.
_PEAK_FLOOR, _PEAK_PER_WEIGHT, _PEAK_PER_GRAPH = 0.235e9, 2.0, 1250
_SECONDS_FLOOR, _SECONDS_PER_WEIGHT, _SECONDS_PER_GRAPH = 0.4, 7e-9, 40e-6
#: Code in a plan; it is the same for one card and for three (a card's own kernels are made when it is first run).
_CODE, _CODE_PER_GRAPH = 1.5e6, 45
_WORKSPACE = 8 * 2**20
_CONTEST_SECONDS = 1.0  # opening, two rounds at least and two seconds at most, shared by two engines


@dataclass(frozen=True)
class Prediction:
    """Bytes and seconds; `weights_bytes` and `activation_bytes` are the device's, none for engines of processors."""

    engine_bytes: int
    build_seconds: float
    build_peak_bytes: int
    weights_bytes: int | None
    activation_bytes: int | None

    def to_dict(self) -> dict[str, object]:
        """JSON-ready fields."""
        return asdict(self)


def predict(bundle: Bundle, job: Job) -> Prediction:
    """What one engine will take.

    Raises:
        BundleError: the bundle is damaged.
    """
    weights = weights_bytes(bundle, job.spec.graph)
    graph = bundle.manifest.files[bundle.graph(job.spec.graph).file].bytes
    if job.spec.backend in PROCESSOR_BACKENDS:
        return _on_processor(job, weights, graph)
    return Prediction(
        engine_bytes=int(weights + _CODE + _CODE_PER_GRAPH * graph),
        build_seconds=round(_SECONDS_FLOOR + _SECONDS_PER_WEIGHT * weights + _SECONDS_PER_GRAPH * graph, 1),
        build_peak_bytes=int(_PEAK_FLOOR + _PEAK_PER_WEIGHT * weights + _PEAK_PER_GRAPH * graph),
        weights_bytes=weights,
        activation_bytes=activation_bytes(bundle, job.spec),
    )


def _on_processor(job: Job, weights: int, graph: int) -> Prediction:
    """The engine points into the bundle's weights: ONNX Runtime reads them once, OpenVINO makes a copy.

    Where two engines compete, both are open at once, their weights laid out for the processor.
    """
    copies = (1 if job.spec.backend == "onnxruntime" else 2) + (2 if job.contested else 0)
    seconds = 0.1 + 2e-9 * weights + (_CONTEST_SECONDS if job.contested else 0.0)
    return Prediction(graph, round(seconds, 1), int(_PEAK_FLOOR + copies * weights), None, None)


def activation_bytes(bundle: Bundle, spec: EngineSpec) -> int:
    """Activation memory at the profile's largest shapes, in bytes.

    A workspace, and what grows with the shapes: in the denoiser rows and tokens (its attention is fused), in the
    modulation its output, in text encoders their hidden states, in the autoencoder pixels.
    """
    item, workspaces = 4 if spec.precision.endswith("float32") else 2, 1  # bytes between the products
    largest = {name: shapes.max for name, shapes in spec.profile.items()}
    if spec.graph.startswith("vae"):
        return _autoencoder_bytes(bundle, spec.graph, largest, item)
    if spec.graph in ("denoiser", "modulation"):
        workspaces = item // 2  # its 32-bit products take a second one
    if spec.graph == "denoiser":
        rows, tokens, _ = largest["patches"]
        context, hidden = largest["context"][1:]
        per_value = _per_value(bundle, spec)
        grows = per_value * rows * (tokens + context) * hidden
    elif spec.graph == "modulation":
        rows, width = largest["pooled"][0], bundle.graph("modulation").outputs[0].shape[-1]
        grows = 1.04 * largest["timestep"][0] * rows * int(width)
    else:
        states = bundle.graph(spec.graph).outputs[0].shape  # [B, S, H]
        rows = max((shape[0] for shape in largest.values()), default=1)
        grows = 10.2 * rows * prod(side for side in states if isinstance(side, int))
    return int(workspaces * _WORKSPACE + grows * item)


def _per_value(bundle: Bundle, spec: EngineSpec) -> float:
    """Activations of the denoiser for each value of its hidden states.

    Weights that are decoded beside half-precision inputs, and nvfp4's blocks, take more.
    """
    formats = bundle.manifest.components["denoiser"].formats
    if not formats:
        return 12.3 if spec.capabilities == ("7.5",) else 9.6  # Turing's attention keeps more
    graph = bundle.read(bundle.graph(spec.graph).file)
    if "nvfp4" in formats:
        return 12.6 if b"TRT_FP4DynamicQuantize" in graph else 10.8
    return 10.3 if b"\x0eQuantizeLinear" in graph else 12.7  # of 14 letters: not DequantizeLinear


def _autoencoder_bytes(bundle: Bundle, graph: str, largest: dict[str, tuple[int, ...]], item: int) -> int:
    """The larger of the convolutions at full size and of the attention over latent pixels, whose scores are not fused.

    Channels are those of the first or last convolution, at least a vector's 32.
    """
    factor = bundle.manifest.latents.factor
    decoding = "latents" in largest
    rows, _, height, width = largest["latents" if decoding else "image"]
    pixels = height * width * (factor * factor if decoding else 1)
    last = "decoder.conv_out.weight" if decoding else "encoder.conv_in.weight"
    shapes = {name: tensor.shape for name, tensor in graph_weights(bundle, graph).items()}
    shape = next((shape for name, shape in shapes.items() if name.endswith(last)), (128, 128))
    channels = max(32, shape[1] if decoding else shape[0])
    convolutions = (6.1 if decoding else 4.7) * channels * item * pixels
    attention = 3.1 * item * (pixels / factor**2) ** 2
    return int(rows * max(convolutions, attention))
