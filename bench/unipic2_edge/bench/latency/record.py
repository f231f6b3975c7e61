"""Timed points as a report holds them, and as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..statistics import percentiles
from .measure import Load, Timed
from .run import TOTAL, Run

_DIGITS = 7  # of seconds: a tenth of a microsecond


def point_record(timed: Timed) -> dict[str, Any]:
    """One point: percentiles of every stage, of the steps, to the first step; all totals in the order of the rounds."""
    record = timed.point.record()
    runs = timed.runs
    if timed.refused is not None or timed.first is None:
        return record | {"refused": timed.refused}
    record |= {
        "runs": len(runs),
        "first_run": round(timed.first.total, _DIGITS),
        "stages": {name: _percentiles([run.stages[name] for run in runs]) for name in runs[0].stages},
        "graphs": {name: _percentiles([run.graphs.get(name, 0.0) for run in runs]) for name in runs[0].graphs},
        "outside_graphs": _percentiles([run.total - sum(run.graphs.values()) for run in runs]),
        "processor_seconds": _percentiles([run.processor for run in runs]),
        "waiting_for_graphs": _percentiles([run.waiting for run in runs]),
        "samples": [round(run.total, _DIGITS) for run in runs],
    }
    return record | (_steps(runs) if runs[0].steps else _tokens(runs))


def _steps(runs: Sequence[Run]) -> dict[str, Any]:
    """Every step of every run together, and the median of each step by its place."""
    steps = np.array([run.steps for run in runs])  # [runs, T]
    return {
        "to_first_step": _percentiles([run.first for run in runs]),
        "step": _percentiles(steps.ravel().tolist()),
        "step_medians": [round(float(value), _DIGITS) for value in np.median(steps, axis=0)],
    }


def _tokens(runs: Sequence[Run]) -> dict[str, Any]:
    rates = [run.tokens_per_second for run in runs if run.tokens_per_second is not None]
    rate = {"tokens_per_second": _percentiles(rates)} if rates else {}
    return {"to_first_token": _percentiles([run.first for run in runs]), **rate}


def load_record(load: Load) -> dict[str, Any]:
    """What opening took, and what was opened."""
    return {
        "bundle": load.bundle,
        "memory": load.memory,
        "pipeline": round(load.pipeline, _DIGITS),
        "graphs": {name: round(seconds, _DIGITS) for name, seconds in load.graphs.items()},
        "total": round(load.pipeline + sum(load.graphs.values()), _DIGITS),
    }


def _percentiles(samples: Sequence[float]) -> dict[str, float]:
    found = percentiles(samples).to_dict()
    return {name: value if name == "count" else round(value, _DIGITS) for name, value in found.items()}


def latency_lines(points: Sequence[dict[str, Any]]) -> list[str]:
    """For people: a table of the points, then where the time goes in each."""
    width = max(len(point["name"]) for point in points)
    lines = [f"{'':<{width}}{'p50':>10}{'p90':>10}{'p99':>10}{'mean':>10}{'stdev':>10}{'first':>10}{'runs':>6}"]
    for point in points:
        if "stages" not in point:
            lines.append(f"{point['name']:<{width}}  not run: {point['refused']}")
            continue
        total = point["stages"][TOTAL]
        first = point.get("to_first_step") or point["to_first_token"]
        figures = [total["p50"], total["p90"], total["p99"], total["mean"], total["stdev"], first["p50"]]
        lines.append(f"{point['name']:<{width}}{''.join(f'{_ms(value):>10}' for value in figures)}{point['runs']:>6}")
    lines.append("(first: from the request to the end of the first step, or to the first token)")
    return [*lines, *(line for point in points if "stages" in point for line in _stage_lines(point))]


def _stage_lines(point: dict[str, Any]) -> list[str]:
    told = ", ".join(f"{name} {_ms(found['p50'])}" for name, found in point["stages"].items() if name != TOTAL)
    each = f"; a step {_ms(point['step']['p50'])} (p99 {_ms(point['step']['p99'])})" if "step" in point else ""
    rate = f"; {point['tokens_per_second']['p50']:.0f} tokens/s" if "tokens_per_second" in point else ""
    return [f"{point['name']}: {told}{each}{rate}; first run {_ms(point['first_run'])}"]


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms"
