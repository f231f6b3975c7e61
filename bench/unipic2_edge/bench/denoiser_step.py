"""`bench step`: one denoising step on a processor, through diffusers in PyTorch and through bundles' backends.

    unipic2-edge bench step CHECKPOINT --bundles BUNDLE,BUNDLE --size 512x384 -o bench/results/<machine>/step.json

Large models do not stand in memory side by side: every contestant gets a process of its own, for a round, and the
rounds go through all contestants in turn, so that a machine that is busy for a while is busy for all.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.errors import WorkError
from unipic2_edge.runtime.patches import open_positions, patchify, unpatchify
from unipic2_edge.training.layout import CheckpointFolder

from .statistics import Spread, ratios, spread

Floats = NDArray[np.float32]
#: PyTorch's ways by name: how the model is called, and its dtype.
PEERS = {
    f"{way}-{name}": (way, dtype)
    for way in ("eager", "compile")
    for name, dtype in (("fp32", "float32"), ("bf16", "bfloat16"))
}
_ROWS = 2  # both guidance branches
_SEED = 5
_TIMESTEP = 800.0


@dataclass(frozen=True)
class Contestant:
    """One way to compute a step.

    Attributes:
        name: for people.
        folder: a checkpoint (PyTorch) or a bundle.
        backend: "eager", "compile", "onnxruntime" or "openvino".
        precision: PyTorch's dtype, or what OpenVINO's products are computed in ("f32", "bf16").
    """

    name: str
    folder: Path
    backend: str
    precision: str


@dataclass(frozen=True)
class Task:
    """What is computed: a picture of `size` (width, height), on so many threads, so often in a round."""

    size: tuple[int, int]
    context: int
    threads: int
    repeats: int


@dataclass(frozen=True)
class Row:
    """One contestant's step: seconds over all rounds, how much faster than the first, and the relative error to it."""

    name: str
    seconds: Spread
    speedup: Spread
    velocity_error: float


@dataclass(frozen=True)
class Inputs:
    """A step's inputs: latents [2, C, h, w], context [2, L, J], pooled [2, P]."""

    latents: Floats
    context: Floats
    pooled: Floats


def contestants(checkpoint: Path, bundles: Sequence[Path], peers: Sequence[str], bfloat16: bool) -> list[Contestant]:
    """PyTorch's ways in the order asked for, then every bundle through ONNX Runtime and OpenVINO.

    Args:
        checkpoint: the checkpoint's folder.
        bundles: float32 and int8 bundles.
        peers: names in `PEERS`.
        bfloat16: whether OpenVINO may compute in bfloat16 here.
    """
    made = [Contestant(f"PyTorch {peer}", checkpoint, *PEERS[peer]) for peer in peers]
    for folder in bundles:
        recipe = Bundle(folder).manifest.recipe
        made.append(Contestant(f"ONNX Runtime {recipe}", folder, "onnxruntime", "f32"))
        made.append(Contestant(f"OpenVINO {recipe}", folder, "openvino", "f32"))
        if bfloat16:
            made.append(Contestant(f"OpenVINO {recipe}, bf16", folder, "openvino", "bf16"))
    return made


def measure(
    entrants: Sequence[Contestant], task: Task, rounds: int, done: Callable[[str], None] = lambda name: None
) -> list[Row]:
    """Seconds of every contestant, round by round; the first one is what the others are compared with.

    Raises:
        WorkError: a contestant's process died, for want of memory as a rule.
        CheckpointError, BundleError: a folder is damaged.
    """
    seconds: dict[str, list[float]] = {entrant.name: [] for entrant in entrants}
    velocities: dict[str, Floats] = {}
    for _ in range(rounds):
        for entrant in entrants:
            taken, velocities[entrant.name] = _in_process(entrant, task)
            seconds[entrant.name] += taken
            done(entrant.name)
    first = entrants[0].name
    exact = velocities[first]
    return [
        Row(
            name,
            spread(taken),
            ratios(seconds[first], taken),
            float(np.linalg.norm(velocities[name] - exact) / np.linalg.norm(exact)),
        )
        for name, taken in seconds.items()
    ]


def _in_process(entrant: Contestant, task: Task) -> tuple[list[float], Floats]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(run, entrant, task).result()
        except OSError as error:
            raise WorkError(
                f"{entrant.name} died: {error}", "leave it out, or use a machine with more memory"
            ) from error


def run(entrant: Contestant, task: Task) -> tuple[list[float], Floats]:
    """A contestant's seconds, without its first step, and its velocity [2, C, h, w]; called in a process of its own."""
    step = (_pytorch if entrant.backend in ("eager", "compile") else _bundle)(entrant, task)
    velocity, seconds = step(), []
    for _ in range(task.repeats):
        start = time.perf_counter()
        velocity = step()
        seconds.append(time.perf_counter() - start)
    return seconds, velocity


def _inputs(sizes: Mapping[str, int], task: Task) -> Inputs:
    """The same numbers for every contestant."""
    random = np.random.default_rng(_SEED)
    width, height = (side // sizes["factor"] for side in task.size)
    shapes = (
        (_ROWS, sizes["channels"], height, width),
        (_ROWS, task.context, sizes["joint"]),
        (_ROWS, sizes["pooled"]),
    )
    return Inputs(*(random.standard_normal(shape, dtype=np.float32) for shape in shapes))


def _pytorch(entrant: Contestant, task: Task) -> Callable[[], Floats]:
    """diffusers' transformer, its modulation at every step."""
    import torch

    from unipic2_edge.training.checkpoint import Checkpoint

    torch.set_num_threads(task.threads)
    dtype = getattr(torch, entrant.precision)
    checkpoint = Checkpoint.open(entrant.folder, partial=True)
    transformer = checkpoint.load_transformer(dtype)
    config, levels = checkpoint.config("transformer"), len(checkpoint.config("vae")["block_out_channels"])
    sizes = {
        "channels": config["in_channels"],
        "factor": 2 ** (levels - 1),
        "joint": config["joint_attention_dim"],
        "pooled": config["pooled_projection_dim"],
    }
    inputs = _inputs(sizes, task)
    latents, context, pooled = (
        torch.from_numpy(array).to(dtype) for array in (inputs.latents, inputs.context, inputs.pooled)
    )
    timestep = torch.full((_ROWS,), _TIMESTEP)
    model = torch.compile(transformer) if entrant.backend == "compile" else transformer

    def step() -> Floats:
        with torch.inference_mode():
            made = model(latents, context, pooled, timestep, return_dict=False)[0]
        velocity: Floats = made.float().numpy()
        return velocity

    return step


def _bundle(entrant: Contestant, task: Task) -> Callable[[], Floats]:
    """A bundle's denoiser; the modulation of all steps was computed before, as the runtime does."""
    from unipic2_edge.engines.build import build_targets
    from unipic2_edge.engines.engine_set import Options
    from unipic2_edge.engines.sizes import default_sizes
    from unipic2_edge.runtime.opening import open_session

    bundle = Bundle(entrant.folder)
    options = Options(
        default_sizes(bundle.manifest), task.threads, backend=entrant.backend, inference_precision=entrant.precision
    )
    build_targets(bundle, "cpu", options)
    space, signature = bundle.manifest.latents, {spec.name: spec for spec in bundle.graph("modulation").inputs}
    sizes = {
        "channels": space.channels,
        "factor": space.factor,
        "joint": int(signature["context"].shape[-1]),
        "pooled": int(signature["pooled"].shape[-1]),
    }
    inputs = _inputs(sizes, task)
    height, width = inputs.latents.shape[-2:]
    modulation = open_session(bundle, "modulation", "cpu", task.threads)
    prepared = modulation.run(
        {"timestep": np.array([_TIMESTEP], np.float32), "pooled": inputs.pooled, "context": inputs.context}
    )
    modulation.close()
    denoiser = open_session(bundle, "denoiser", "cpu", task.threads)
    feed = {
        "patches": patchify(inputs.latents, space.patch_size),
        "positions": open_positions(bundle).crop(height // space.patch_size, width // space.patch_size),
        "context": prepared["embedded_context"],
        "modulation": prepared["modulation"][0],
    }
    return lambda: unpatchify(denoiser.run(feed)["velocity"], space.patch_size, height, width)


def step_lines(rows: Sequence[Row]) -> list[str]:
    """The rows as a Markdown table."""
    lines = ["| step through | seconds (quartiles) | times the first's speed | velocity error |", "|---|---|---|---|"]
    return lines + [
        f"| {row.name} | {row.seconds.median:.2f} ({row.seconds.low:.2f}–{row.seconds.high:.2f}) | "
        f"{row.speedup.median:.2f} ({row.speedup.low:.2f}–{row.speedup.high:.2f}) | {row.velocity_error:.4f} |"
        for row in rows
    ]


def check_checkpoint(folder: Path) -> None:
    """Refuse a folder before any process starts.

    Raises:
        CheckpointError: it is no checkpoint, or has no transformer.
    """
    CheckpointFolder.open(folder, partial=True).path("transformer")
