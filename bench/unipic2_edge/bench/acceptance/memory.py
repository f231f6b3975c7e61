"""The steps that hold a GPU's memory against the plan: every engine alone, at the largest shapes that it serves."""

from __future__ import annotations

from typing import Any

import numpy as np

from unipic2_edge.runtime.bundle import Bundle, TensorSpec
from unipic2_edge.runtime.cuda import Cuda
from unipic2_edge.runtime.device import find_gpus
from unipic2_edge.runtime.device_buffers import Arena
from unipic2_edge.runtime.engine import Engine
from unipic2_edge.runtime.memory_plan import CONTEXT_BYTES, plan_memory
from unipic2_edge.runtime.session import Array, stored_dtype
from unipic2_edge.runtime.tensorrt_session import TensorRTSession

from .bundles import small_bundle
from .large_model import large_bundle
from .step import Job, Made
from .ways import device_of, placed

#: An engine may take so much more than its compiler said before the plan is wrong: buffers of inputs and outputs are
#: not in it, and the driver hands memory out in pages of 2 MiB.
_SLACK, _SLACK_BYTES = 1.1, 64 * 2**20


def measure_memory(job: Job) -> Made:
    """What CUDA takes for itself, then each engine's bytes on the device while it runs, against the prediction.

    Raises:
        SkippedError: the device does not take the engines.
        WorkError: the GPU failed, or its memory ran out.
    """
    arguments, setting = job.step.arguments, job.setting
    folder = large_bundle if arguments["model"] == "large" else small_bundle
    bundle = Bundle(folder(setting, arguments["recipe"]))
    placement = placed(setting, bundle, arguments["backend"])
    index = device_of(setting).index
    before = find_gpus()[index].free_bytes
    cuda = Cuda(index)
    rows = []
    for graph, need in ((need.graph, need) for need in placement.needs()):
        rows.append(_row(bundle, placement.choices[graph].engine, cuda, need.weights, need.activations))
    after = find_gpus()[index].free_bytes
    context = None if before is None or after is None else max(0, before - after)
    plan = plan_memory(placement.needs(), 2**62)
    measured = max(row["measured_bytes"] for row in rows)
    results: dict[str, Any] = {"model": arguments["model"], "way": f"{arguments['backend']}-{arguments['recipe']}"}
    results |= {"rows": rows, "context_bytes": context, "assumed_context_bytes": CONTEXT_BYTES}
    results |= {"planned_peak_bytes": plan.peak_bytes, "largest_measured_bytes": measured}
    lines = [
        f"{row['graph']}: {row['measured_bytes'] / 1e6:.1f} MB, predicted {row['predicted_bytes'] / 1e6:.1f}"
        for row in rows
    ]
    if context is not None:
        lines.append(f"CUDA and its libraries: {context / 1e6:.0f} MB, assumed {CONTEXT_BYTES / 1e6:.0f}")
    over = next((row for row in rows if row["measured_bytes"] > _SLACK * row["predicted_bytes"] + _SLACK_BYTES), None)
    problem = None if over is None else f"{over['graph']} takes more than was predicted: {over['measured_bytes']} bytes"
    return Made(results=results, lines=lines, problem=problem)


def _row(bundle: Bundle, engine: Engine, cuda: Cuda, weights: int, activations: int) -> dict[str, Any]:
    """One engine opened, run at its largest shapes, and closed; each has an arena of its own."""
    before = cuda.free_bytes()
    arena = Arena(cuda)
    session = TensorRTSession(bundle, engine, cuda, arena)
    opened = cuda.free_bytes()
    inputs = {spec.name: _largest(spec, engine) for spec in session.graph.inputs}
    border = sum(array.nbytes for array in inputs.values())
    outputs = session.run(inputs)
    border += sum(array.nbytes for array in outputs.values())
    running = cuda.free_bytes()
    session.close()
    arena.close()
    return {
        "graph": engine.spec.graph,
        "opened_bytes": before - opened,
        "measured_bytes": before - running,
        "predicted_bytes": weights + activations + border,
        "weights_bytes": weights,
        "activation_bytes": activations,
        "border_bytes": border,
        "returned_bytes": cuda.free_bytes() - running,
    }


def _largest(spec: TensorSpec, engine: Engine) -> Array:
    """Zeros of the largest shape that an engine takes."""
    limits = engine.spec.profile.get(spec.name)
    shape = limits.max if limits is not None else tuple(side for side in spec.shape if isinstance(side, int))
    return np.zeros(shape, stored_dtype(spec))
