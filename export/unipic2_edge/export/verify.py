"""Proof that a bundle computes what its checkpoint computes: PyTorch against the runtime's sessions, graph by graph.

The denoiser's reference is the whole image-shaped `KontextTransformer`, so patchify, positions, the modulation
split and the reference's place in the sequence are all part of what is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.patches import open_positions, patchify, unpatchify
from unipic2_edge.training.checkpoint import Checkpoint

from .comparing import Comparison, arrays_of, cast, open_graph
from .quantization.calibration_set import open_calibration_set
from .quantization.gate import Gate, open_exact
from .recipes import CalibrationSettings
from .reference_pipeline import Reference
from .verify_qwen import compare_connector, compare_head, compare_language, compare_vision

#: Largest relative error that counts as the same numbers, by precision of the component.
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 5e-2}

#: The same by format, for layers that are quantised: enough to tell rounding from a mistake; the gate judges quality.
QUANTIZED_TOLERANCE = {"int8": 0.2, "fp8": 0.2, "int4": 0.6, "nvfp4": 0.6}
_PATH = CalibrationSettings(prompts=1, seed=17)
_PATH_CALLS = 8

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Drift:
    """One comparison: ‖a − b‖/‖b‖ over a whole output, and the largest difference over the largest value."""

    component: str
    output: str
    case: str
    relative: float
    largest: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the output is the same within the tolerance (not-a-number never is)."""
        return self.relative <= self.tolerance

    def to_dict(self) -> dict[str, object]:
        """JSON-ready fields."""
        return asdict(self) | {"passed": self.passed}


def verify(bundle: Bundle, checkpoint: Checkpoint, done: Callable[[str], None] = lambda component: None) -> list[Drift]:
    """Compare every component of the bundle with its checkpoint in fp32.

    Raises:
        CheckpointError: the checkpoint lacks a part the bundle has.
        BundleError: a file of the bundle is damaged.
    """
    drifts: list[Drift] = []
    for component, description in bundle.manifest.components.items():
        tolerances = (TOLERANCE[description.precision], *(QUANTIZED_TOLERANCE[name] for name in description.formats))
        check = _quantized_denoiser if component == "denoiser" and description.formats else _CHECKS[component]
        with torch.inference_mode():
            drifts += [
                _drift(component, output, case, made, expected, max(tolerances))
                for output, case, made, expected in check(bundle, checkpoint, component)
            ]
        done(component)
    return drifts


def _drift(component: str, output: str, case: str, made: Floats, expected: Tensor, tolerance: float) -> Drift:
    reference = expected.double().numpy()
    difference = made.astype(np.float64) - reference
    norm, peak = float(np.linalg.norm(reference)), float(np.abs(reference).max())
    relative = float(np.linalg.norm(difference)) / max(norm, 1e-30)
    largest = float(np.abs(difference).max()) / max(peak, 1e-30)
    return Drift(component, output, case, relative, largest, tolerance)


def _denoiser(bundle: Bundle, checkpoint: Checkpoint, component: str) -> Iterator[Comparison]:
    transformer = checkpoint.load_transformer()
    modulation, denoiser = open_graph(bundle, "modulation"), open_graph(bundle, "denoiser")
    space, table = bundle.manifest.latents, open_positions(bundle)
    config = transformer.config
    generator = torch.Generator().manual_seed(1)
    for rows, columns, edit in ((4, 4, False), (3, 5, False), (4, 6, True), (5, 3, True)):
        shape = (2, space.channels, rows * space.patch_size, columns * space.patch_size)
        latents, reference = (torch.randn(shape, generator=generator) for _ in range(2))
        context = torch.randn(2, 13, config.joint_attention_dim, generator=generator)
        pooled = torch.randn(2, config.pooled_projection_dim, generator=generator)
        times = torch.tensor([937.0, 12.5, 401.0])
        steps = modulation.run(arrays_of(modulation, timestep=times, pooled=pooled, context=context))
        for index, time in enumerate(times):
            patches = patchify(latents.numpy(), space.patch_size)
            positions = table.crop(rows, columns)
            if edit:
                patches = np.concatenate([patchify(reference.numpy(), space.patch_size), patches], axis=1)
                positions = np.tile(positions, (2, 1))
            inputs = {
                "patches": patches,
                "positions": positions,
                "context": steps["embedded_context"],
                "modulation": steps["modulation"][index],
            }
            velocity = denoiser.run(cast(denoiser, inputs))["velocity"][:, -rows * columns :]
            made = unpatchify(velocity, space.patch_size, *shape[2:])
            expected = transformer(latents, context, pooled, time.expand(2), reference if edit else None).sample
            yield "velocity", f"{'edit' if edit else 'generate'} {rows}x{columns} t={time:g}", made, expected


def _quantized_denoiser(bundle: Bundle, checkpoint: Checkpoint, component: str) -> Iterator[Comparison]:
    """On the reference's own path: static scales are right for inputs that occur, not for any."""
    with Reference(checkpoint) as reference:
        calls = Gate(reference, open_calibration_set(_PATH, reference.manifest, None)).calls
    session = open_exact(bundle, component)
    for index in np.linspace(0, len(calls) - 1, min(_PATH_CALLS, len(calls))).astype(int):
        made = session.run(calls[index].inputs)["velocity"]
        yield "velocity", f"call {index + 1} of {len(calls)}", made, torch.from_numpy(calls[index].velocity)


def _vae(bundle: Bundle, checkpoint: Checkpoint, component: str) -> Iterator[Comparison]:
    vae = checkpoint.load_vae()
    encoder, decoder = open_graph(bundle, "vae_encoder"), open_graph(bundle, "vae_decoder")
    generator = torch.Generator().manual_seed(2)
    for height, width in ((64, 64), (96, 64)):
        image = torch.rand(1, 3, height, width, generator=generator) * 2 - 1
        posterior = vae.encode(image).latent_dist
        moments = encoder.run(arrays_of(encoder, image=image))
        case = f"{width}x{height}"
        yield "mean", case, moments["mean"], posterior.mean
        yield "logvar", case, moments["logvar"], posterior.logvar
        decoded = decoder.run(arrays_of(decoder, latents=posterior.mean))["image"]
        yield "image", case, decoded, vae.decode(posterior.mean).sample


def _text(bundle: Bundle, checkpoint: Checkpoint, component: str) -> Iterator[Comparison]:
    encoder = checkpoint.load_text_encoder(component)
    session = open_graph(bundle, component)
    ids = checkpoint.tokenizers()(["a red circle", "two blue squares on a white background", ""])
    chosen = ids[("text_encoder", "text_encoder_2", "text_encoder_3").index(component)]
    made = session.run(arrays_of(session, input_ids=chosen))
    output = encoder(chosen, output_hidden_states=True)
    if component == "text_encoder_3":
        yield "hidden", "3 texts", made["hidden"], output.last_hidden_state
    else:
        yield "hidden", "3 texts", made["hidden"], output.hidden_states[-2]
        yield "pooled", "3 texts", made["pooled"], output.text_embeds


_CHECKS: dict[str, Callable[[Bundle, Checkpoint, str], Iterator[Comparison]]] = {
    "denoiser": _denoiser,
    "vae": _vae,
    "text_encoder": _text,
    "text_encoder_2": _text,
    "text_encoder_3": _text,
    "vision": compare_vision,
    "language": compare_language,
    "lm_head": compare_head,
    "connector": compare_connector,
}
