"""The steps that time the large denoiser: an engine and PyTorch's ways taking a denoising step in turns.

A step is one call with both branches of guidance (batch 2). An engine's seconds hold its share of the modulation, which
the runtime computes once for all steps and PyTorch at every step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from unipic2_edge.bench.roofline.limits import Limits
from unipic2_edge.bench.statistics import ratios, spread
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.device import find_gpus
from unipic2_edge.training.checkpoint import Checkpoint

from .contestants import Floats, Run, Taken, engine_step, numbers, take_turns, text_length, torch_steps
from .large_model import large_bundle, large_folder
from .step import Job, Made, Setting, SkippedError, workload_name
from .ways import open_sessions, placed

#: Of a velocity whose weights are only rounded, not quantised: more than that is another result.
_ROUNDED = 0.05
_PLAIN = ("fp32", "fp16", "bf16")


def time_step(job: Job) -> Made:
    """One workload's step through PyTorch, and through a way where the arguments name one.

    Raises:
        SkippedError: the device has no room for the contestants, or does not take the engines.
        WorkError: a session failed.
    """
    setting, arguments = job.setting, job.step.arguments
    load = (arguments["task"], arguments["width"], arguments["height"])
    given = numbers(setting, load, text_length(setting))
    backend: str | None = arguments.get("backend")
    recipe: str | None = arguments.get("recipe")
    _check_room(setting, backend, recipe)
    problems: dict[str, str] = {}
    checkpoint = Checkpoint.open(large_folder(setting) / "checkpoint", partial=True)
    contestants, memory = _warmed(torch_steps(setting, checkpoint, given), problems, setting)
    shared = 0.0
    if backend is not None and recipe is not None:
        bundle, before = Bundle(large_bundle(setting, recipe)), _free(setting)
        run, shared = engine_step(bundle, open_sessions(setting, bundle, backend), given)
        run()
        contestants["engine"] = run
        memory["engine"] = None if before is None else before - (_free(setting) or before)
    taken = take_turns(contestants, setting.seconds)
    rows = _rows(taken, shared, memory, _work(job), _limits(job), recipe)
    results: dict[str, Any] = {
        "workload": workload_name(load),
        "way": backend and f"{backend}-{recipe}",
        "recipe": recipe,
    }
    results |= {"rows": rows, "modulation_share_seconds": shared, "problems": problems}
    results["layers"] = setting.layers
    return Made(results=results, lines=_lines(rows, problems), problem=_problem(taken, recipe))


def _warmed(
    contestants: dict[str, Run], problems: dict[str, str], setting: Setting
) -> tuple[dict[str, Run], dict[str, int | None]]:
    """PyTorch's ways that run, with the most memory that each took; why the others do not."""
    memory: dict[str, int | None] = {}
    able = {}
    for name, run in contestants.items():
        if setting.gpu is not None:
            torch.cuda.reset_peak_memory_stats(setting.gpu)
        try:
            run()
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a compiler that is not there, a kernel that the card lacks: the others still run
            problems[name] = f"{type(error).__name__}: {(str(error).strip() or '?').splitlines()[0][:200]}"
            continue
        able[name] = run
        memory[name] = None if setting.gpu is None else int(torch.cuda.max_memory_allocated(setting.gpu))
    return able, memory


def _rows(
    taken: dict[str, Taken],
    shared: float,
    memory: dict[str, int | None],
    work: dict[str, int] | None,
    limits: dict[str, Limits],
    recipe: str | None,
) -> list[dict[str, Any]]:
    """A row for each contestant: seconds, times PyTorch's speed, MFU, the velocity's error, peak memory."""
    shares = {name: shared if name == "engine" else 0.0 for name in taken}
    seconds = {name: [value + shares[name] for value in found.seconds] for name, found in taken.items()}
    rows = []
    for name, found in taken.items():
        median = spread(seconds[name]).median
        row: dict[str, Any] = {"name": name, "seconds": spread(seconds[name]).to_dict(), "memory_bytes": memory[name]}
        if "eager" in taken:
            row["velocity_error"] = _error(found.velocity, taken["eager"].velocity)
        for peer in ("eager", "compile"):
            if peer in seconds and peer != name:
                row[f"times_{peer}"] = ratios(seconds[peer], seconds[name]).to_dict()
        # What PyTorch multiplies is in its own format, whatever the engine's is.
        own = work if name == "engine" or recipe in (None, *_PLAIN) else None
        for source, known in limits.items():
            least = None if own is None else known.compute_seconds(own)
            row[f"mfu_{source}"] = None if least is None else least / median
        rows.append(row)
    return rows


def _error(velocity: Floats, exact: Floats) -> float:
    return float(np.linalg.norm(velocity - exact) / np.linalg.norm(exact))


def _problem(taken: dict[str, Taken], recipe: str | None) -> str | None:
    """Why the result is no result: it is not finite, or far from PyTorch's although nothing was quantised."""
    for name, found in taken.items():
        if not np.isfinite(found.velocity).all():
            return f"{name} made NaN or infinity"
    if recipe in _PLAIN and "engine" in taken and "eager" in taken:
        error = _error(taken["engine"].velocity, taken["eager"].velocity)
        if error > _ROUNDED:
            return f"the velocity differs from PyTorch's by {error:.3f}"
    return None


def _work(job: Job) -> dict[str, int] | None:
    """The matrix operations of a step as they were counted on the graph of the recipe."""
    arguments = job.step.arguments
    load = workload_name((arguments["task"], arguments["width"], arguments["height"]))
    recipe = arguments.get("recipe") or arguments["counted"]
    for found in job.found.values():
        if found.get("recipe") == recipe and "matrix_operations" in found:
            work: dict[str, int] = found["matrix_operations"][load]
            return work
    return None


def _limits(job: Job) -> dict[str, Limits]:
    """The device's limits, measured and of its data sheet, as far as they are known."""
    found = next((found for found in job.found.values() if "measured" in found), {})
    return {name: Limits(**found[name]) for name in ("measured", "sheet") if found.get(name) is not None}


def _free(setting: Setting) -> int | None:
    """Bytes of the GPU that are free."""
    return None if setting.gpu is None else find_gpus()[setting.gpu].free_bytes


def _check_room(setting: Setting, backend: str | None, recipe: str | None) -> None:
    """Refuse before anything is loaded what the GPU cannot hold: the weights once for PyTorch, once as an engine.

    Raises:
        SkippedError: it cannot.
    """
    free = _free(setting)
    if free is None:
        return
    folder = large_folder(setting) / "checkpoint"
    wanted = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    if backend is not None and recipe is not None:
        bundle = Bundle(large_bundle(setting, recipe))
        needs = placed(setting, bundle, backend).needs()
        weights = sum(entry.bytes for name, entry in bundle.manifest.files.items() if name.startswith("weights/"))
        wanted += sum(need.weights for need in needs) if needs else weights
        wanted += max((need.activations for need in needs), default=0)
    if wanted > free:
        raise SkippedError(
            f"too little memory: the contestants take {wanted / 1e9:.1f} GB together, {free / 1e9:.1f} are free;"
            " fewer --layers take less"
        )


def _lines(rows: list[dict[str, Any]], problems: dict[str, str]) -> list[str]:
    lines = []
    for row in rows:
        faster = row.get("times_eager")
        told = "" if faster is None else f", {faster['median']:.2f}× eager ({faster['low']:.2f}–{faster['high']:.2f})"
        used = row.get("mfu_measured")
        told += "" if used is None else f", MFU {100 * used:.0f} %"
        lines.append(f"{row['name']}: {1e3 * row['seconds']['median']:.2f} ms a step{told}")
    return lines + [f"{name} did not run: {why}" for name, why in problems.items()]
