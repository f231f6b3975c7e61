"""The steps that compare pictures of the small model with PyTorch's: latents, PSNR, and the same bytes for a seed."""

from __future__ import annotations

import math

import numpy as np
import torch

from unipic2_edge.bench.compare import Agreement, Row, agreement, measure, taken
from unipic2_edge.bench.peers.bundle_peer import BundlePeer
from unipic2_edge.bench.peers.doors import Entrant, InsideDoor
from unipic2_edge.bench.peers.jobs import PICTURES, jobs_of, space_of_bundle
from unipic2_edge.bench.peers.peer import Peer
from unipic2_edge.bench.peers.pytorch_peer import PyTorchPeer, load_pipeline
from unipic2_edge.bench.quality import Settings
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.errors import WorkError
from unipic2_edge.runtime.pipeline import Pipeline
from unipic2_edge.runtime.request import task_defaults
from unipic2_edge.training.metaquery.checkpoint import open_checkpoint

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
    exact = load_pipeline(open_checkpoint(small_checkpoint(job.setting)))
    compared = _measured(PyTorchPeer(exact, exact.transformer), BundlePeer(pipeline, backend), settings, pipeline)
    found = {task: agreement(made, reference) for task, (reference, made) in compared.items()}
    limits = _PROCESSOR if backend in ("onnxruntime", "openvino") else _TF32 if recipe == "fp32" else _HALF
    same = same_bytes(pipeline)
    rows = [_row(task, found[task], *pair) for task, pair in compared.items()]
    problem = _problem(found, limits, same)
    results = {"way": f"{backend}-{recipe}", "rows": rows, "same_seed_same_bytes": same}
    results |= {"allowed_latents_error": limits[0], "allowed_psnr_db": limits[1]}
    lines = [
        f"{task}: latents differ by ≤ {made.error:.1e} (allowed {limits[0]:.0e}), "
        f"{'identical' if made.psnr == math.inf else f'PSNR ≥ {made.psnr:.1f} dB'} (allowed {limits[1]:.0f})"
        for task, made in found.items()
    ]
    lines.append(f"the same seed gives the same bytes: {'yes' if same else 'no'}")
    return Made(results=results, lines=lines, problem=problem)


def same_bytes(pipeline: Pipeline) -> bool:
    """Whether one seed gives the same latents and the same pixels twice."""
    first, second = (pipeline.generate("a red circle", seed=_SEED) for _ in range(2))
    pixels = [np.asarray(made.images[0]).tobytes() for made in (first, second)]
    return pixels[0] == pixels[1] and first.latents.tobytes() == second.latents.tobytes()


def _measured(pytorch: Peer, runtime: Peer, settings: Settings, pipeline: Pipeline) -> dict[str, tuple[Row, Row]]:
    """PyTorch's row and the runtime's by task, in this process.

    Raises:
        WorkError: one of them failed.
    """
    peers, space = {"pytorch": pytorch, "runtime": runtime}, space_of_bundle(pipeline.bundle)
    tasks = {task: jobs_of(task, settings.prompts, settings, space, context=0) for task in PICTURES}
    found = measure([Entrant(name, "") for name in peers], tasks, lambda entrant: InsideDoor(peers[entrant.name]))
    failed = next((row for rows in found.values() for row in rows if row.reason is not None), None)
    if failed is not None:
        raise WorkError(f"{failed.entrant.name}: {failed.reason}", "see the step's log")
    return {task: (rows[0], rows[1]) for task, rows in found.items()}


def _row(task: str, found: Agreement, reference: Row, made: Row) -> dict[str, object]:
    seconds, pytorch = taken(made), taken(reference)
    return {
        "task": task,
        "latents_error": found.error,
        "psnr_db": None if found.psnr is None or found.psnr == math.inf else round(found.psnr, 2),
        "seconds": None if seconds is None else seconds.to_dict(),
        "pytorch_seconds": None if pytorch is None else pytorch.to_dict(),
    }


def _problem(found: dict[str, Agreement], limits: tuple[float, float], same: bool) -> str | None:
    """The first thing that is not as it must be; NaN is more than any limit."""
    for task, made in found.items():
        if made.error is None or not made.error <= limits[0]:
            return f"{task}: latents differ by {made.error or math.nan:.1e}, more than {limits[0]:.0e}"
        if made.psnr is None or not made.psnr >= limits[1]:
            return f"{task}: PSNR {made.psnr or math.nan:.1f} dB, less than {limits[1]:.0f}"
    return None if same else "the same seed gives other bytes"
