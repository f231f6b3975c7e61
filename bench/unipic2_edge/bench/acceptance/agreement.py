"""The steps that compare pictures of the small model with PyTorch's: latents, PSNR, and the same bytes for a seed."""

from __future__ import annotations

import math

import numpy as np
import torch

from unipic2_edge.bench.compare import Comparison, compare, open_peer
from unipic2_edge.bench.quality import Settings
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.runtime.request import task_defaults
from unipic2_edge.training.metaquery import open_checkpoint

from .bundles import small_bundle, small_checkpoint
from .step import Job, Made
from .ways import open_pipeline

#: Latents' relative error and PSNR in dB that are still the same picture: on processors, on GPUs whose tensor cores
#: round float32 products to TF32, and in 16 bit.
_PROCESSOR, _TF32, _HALF = (1e-3, 45.0), (1e-2, 40.0), (0.1, 30.0)
_PICTURES = 3
_SEED = 11


def compare_with_pytorch(job: Job) -> Made:
    """Pictures of one way against the plain PyTorch pipeline in float32 on the processor, from the same noise.

    Raises:
        SkippedError: the device does not take the engines.
        WorkError: a session failed.
    """
    backend, recipe = job.step.arguments["backend"], job.step.arguments["recipe"]
    pipeline = open_pipeline(job.setting, Bundle(small_bundle(job.setting, recipe)), backend)
    if job.setting.threads is not None:
        torch.set_num_threads(job.setting.threads)
    default = task_defaults(pipeline.manifest, "generate")
    settings = Settings(
        min(_PICTURES, job.setting.prompts),
        default.num_inference_steps,
        default.guidance_scale,
        _SEED,
        default.width,
        default.height,
    )
    found = compare(pipeline, open_peer(open_checkpoint(small_checkpoint(job.setting))), settings)
    limits = _PROCESSOR if backend in ("onnxruntime", "openvino") else _TF32 if recipe == "fp32" else _HALF
    same = same_bytes(pipeline)
    rows = [_row(made) for made in found]
    problem = _problem(found, limits, same)
    results = {"way": f"{backend}-{recipe}", "rows": rows, "same_seed_same_bytes": same}
    results |= {"allowed_latents_error": limits[0], "allowed_psnr_db": limits[1]}
    lines = [
        f"{made.task}: latents differ by ≤ {made.latents_error:.1e} (allowed {limits[0]:.0e}), "
        f"{'identical' if math.isinf(made.psnr) else f'PSNR ≥ {made.psnr:.1f} dB'} (allowed {limits[1]:.0f})"
        for made in found
    ]
    lines.append(f"the same seed gives the same bytes: {'yes' if same else 'no'}")
    return Made(results=results, lines=lines, problem=problem)


def same_bytes(pipeline: Pipeline) -> bool:
    """Whether one seed gives the same latents and the same pixels twice."""
    first, second = (pipeline.generate("a red circle", seed=_SEED) for _ in range(2))
    pixels = [np.asarray(made.images[0]).tobytes() for made in (first, second)]
    return pixels[0] == pixels[1] and first.latents.tobytes() == second.latents.tobytes()


def _row(made: Comparison) -> dict[str, object]:
    return {
        "task": made.task,
        "latents_error": made.latents_error,
        "psnr_db": None if math.isinf(made.psnr) else round(made.psnr, 2),
        "seconds": made.runtime_seconds.to_dict(),
        "pytorch_seconds": made.pytorch_seconds.to_dict(),
    }


def _problem(found: list[Comparison], limits: tuple[float, float], same: bool) -> str | None:
    """The first thing that is not as it must be; NaN is more than any limit."""
    for made in found:
        if not made.latents_error <= limits[0]:
            return f"{made.task}: latents differ by {made.latents_error:.1e}, more than {limits[0]:.0e}"
        if not made.psnr >= limits[1]:
            return f"{made.task}: PSNR {made.psnr:.1f} dB, less than {limits[1]:.0f}"
    return None if same else "the same seed gives other bytes"
