"""What takes a denoising step in turns: the plain PyTorch transformer, eager and compiled, and an engine's session.

Every contestant gets the same numbers. PyTorch's inputs lie on the device already and its result stays there; an
engine is given arrays of the host and hands one back, as the runtime does at every step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.patches import open_positions, patchify, unpatchify
from unipic2_edge.runtime.pool import SessionPool
from unipic2_edge.training.checkpoint import Checkpoint

from .large_model import ROWS, large_config, large_dtype
from .step import Setting

Floats = NDArray[np.float32]
Run = Callable[[], Any]
_SEED, _TIMESTEP, _STEPS = 5, 800.0, 28
_ROUNDS = (5, 60)  # fewest and most
_WARM_UP = 2


@dataclass(frozen=True)
class Numbers:
    """A step's inputs: latents and reference [2, C, h, w] (the latter for edits), context [2, L, J], pooled [2, P]."""

    latents: Floats
    reference: Floats | None
    context: Floats
    pooled: Floats


@dataclass(frozen=True)
class Taken:
    """A contestant's seconds, one of each round, and its velocity [2, C, h, w]."""

    seconds: list[float]
    velocity: Floats


def numbers(setting: Setting, load: tuple[str, int, int], context: int) -> Numbers:
    """The same random numbers for everyone."""
    config, (task, width, height) = large_config(setting), load
    factor = 2 ** (len(config.vae["block_out_channels"]) - 1)
    random = np.random.default_rng(_SEED)
    latents = (ROWS, config.transformer["in_channels"], height // factor, width // factor)
    reference = random.standard_normal(latents, dtype=np.float32) if task == "edit" else None
    return Numbers(
        latents=random.standard_normal(latents, dtype=np.float32),
        reference=reference,
        context=random.standard_normal((ROWS, context, config.transformer["joint_attention_dim"]), dtype=np.float32),
        pooled=random.standard_normal((ROWS, config.transformer["pooled_projection_dim"]), dtype=np.float32),
    )


def text_length(setting: Setting) -> int:
    """Tokens of the context: CLIP's, then T5's."""
    config = large_config(setting)
    return int(config.text_encoder["max_position_embeddings"]) + config.t5_length


def torch_steps(setting: Setting, checkpoint: Checkpoint, given: Numbers) -> dict[str, Run]:
    """Each of PyTorch's ways by name; all share one model, whose modulation is computed at every step."""
    if not setting.peers:
        return {}
    device, dtype = "cpu" if setting.gpu is None else f"cuda:{setting.gpu}", large_dtype(setting)
    if setting.gpu is None and setting.threads is not None:
        torch.set_num_threads(setting.threads)
    transformer: Any = checkpoint.load_transformer(dtype)
    transformer.to(device)

    def there(array: Floats) -> torch.Tensor:
        return torch.from_numpy(array).to(device, dtype)

    inputs = [there(given.latents), there(given.context), there(given.pooled)]
    timestep = torch.full((ROWS,), _TIMESTEP, device=device)
    reference = None if given.reference is None else there(given.reference)

    def run_of(model: Any) -> Run:
        def run() -> torch.Tensor:
            with torch.inference_mode():
                made: torch.Tensor = model(*inputs, timestep, reference, return_dict=False)[0]
            if device != "cpu":
                torch.cuda.synchronize()
            return made

        return run

    known = {"eager": lambda: run_of(transformer), "compile": lambda: run_of(torch.compile(transformer))}
    return {name: known[name]() for name in setting.peers}


def engine_step(bundle: Bundle, sessions: SessionPool, given: Numbers) -> tuple[Run, float]:
    """A bundle's step, and the share of one step in the seconds of the modulation that all steps have in common."""
    space = bundle.manifest.latents
    timesteps = np.full(_STEPS, _TIMESTEP, np.float32)
    feed = {"timestep": timesteps, "pooled": given.pooled, "context": given.context}
    sessions["modulation"].run(feed)
    start = time.perf_counter()
    prepared = sessions["modulation"].run(feed)
    shared = (time.perf_counter() - start) / _STEPS
    height, width = given.latents.shape[-2:]
    noisy = patchify(given.latents, space.patch_size)
    parts = [noisy] if given.reference is None else [patchify(given.reference, space.patch_size), noisy]
    positions = open_positions(bundle).crop(height // space.patch_size, width // space.patch_size)
    inputs = {
        "patches": np.concatenate(parts, axis=1),
        "positions": np.tile(positions, (len(parts), 1)),
        "context": np.array(prepared["embedded_context"]),  # copies: what a session gave may go with it
        "modulation": np.array(prepared["modulation"][0]),
    }
    sessions.close(["modulation"])
    for name in ("context", "positions"):  # as in the runtime: what does not change is uploaded once
        inputs[name].flags.writeable = False
    denoiser = sessions["denoiser"]

    def run() -> Floats:
        velocity = denoiser.run(inputs)["velocity"][:, -noisy.shape[1] :]
        return unpatchify(velocity, space.patch_size, height, width)

    return run, shared


def take_turns(contestants: Mapping[str, Run], seconds: float) -> dict[str, Taken]:
    """Round after round, everyone once a round, until the time is up; the first runs are not timed."""
    made: dict[str, Any] = {}
    for name, run in contestants.items():
        for _ in range(_WARM_UP):
            made[name] = run()
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    begin, rounds = time.perf_counter(), 0
    while rounds < _ROUNDS[0] or (rounds < _ROUNDS[1] and time.perf_counter() - begin < seconds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - start)
        rounds += 1
    return {name: Taken(taken[name], _host(velocity)) for name, velocity in made.items()}


def _host(velocity: Any) -> Floats:
    array: Floats = velocity.float().cpu().numpy() if isinstance(velocity, torch.Tensor) else velocity
    return array
