"""What `bench compare` reports: rows with seconds, ratios and agreement, for people and for JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from .compare import Agreement, Row, agreement, reference_of, speed, taken
from .statistics import Spread


def comparison_record(rows: Mapping[str, Sequence[Row]]) -> dict[str, object]:
    """Every task's rows, and which of them is the reference: the first that did all its jobs."""
    return {task: _task_record(found) for task, found in rows.items()}


def _task_record(rows: Sequence[Row]) -> dict[str, object]:
    reference = reference_of(rows)
    return {
        "reference": None if reference is None else reference.entrant.name,
        "rows": [_row_record(row, reference) for row in rows],
    }


def _row_record(row: Row, reference: Row | None) -> dict[str, object]:
    whole = row.reason is None and reference is not None
    agreed = agreement(row, reference) if whole and reference is not None else Agreement(None, None)
    ratio = speed(row, reference) if whole and reference is not None else None
    seconds = taken(row) if whole else None
    return {
        "name": row.entrant.name,
        **row.entrant.details,
        "reason": row.reason,
        "seconds": None if seconds is None else seconds.to_dict(),
        "samples": [round(value, 7) for value in row.seconds.values()] if whole else [],
        "speedup": None if ratio is None else ratio.to_dict(),
        "latents_error": _finite(agreed.error),
        "psnr_db": "identical" if agreed.psnr == math.inf else _finite(agreed.psnr),
        "same": agreed.same,
        "load_seconds": row.load_seconds,
        "first_seconds": row.first_seconds,
        "resident_bytes": row.resident_bytes,
        "about": row.about,
    }


def _finite(value: float | None) -> float | None:
    """JSON has no NaN; `same` tells that it was one."""
    return value if value is not None and math.isfinite(value) else None


def comparison_lines(rows: Mapping[str, Sequence[Row]]) -> list[str]:
    """A Markdown table for each task."""
    lines = []
    for task, found in rows.items():
        reference = reference_of(found)
        lines += [
            f"| {task} | seconds (quartiles) | times the first's speed | differs by | picture |",
            "|---|---|---|---|---|",
        ]
        lines += [_line(row, reference) for row in found]
    return lines


def _line(row: Row, reference: Row | None) -> str:
    ratio = None if reference is None or row.reason is not None else speed(row, reference)
    seconds = taken(row)
    if ratio is None or seconds is None or reference is None:
        return f"| {row.entrant.name} | — | {row.reason or 'nothing to compare with'} | | |"
    agreed = agreement(row, reference)
    times = f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"
    if agreed.same is False:
        times = f"another picture; no ratio ({ratio.median:.2f})"
    return (
        f"| {row.entrant.name} | {_seconds(seconds)} | {times} | "
        f"{'' if agreed.error is None else f'{agreed.error:.1e}'} | {_quality(agreed.psnr)} |"
    )


def _seconds(found: Spread) -> str:
    return f"{found.median:.3g} ({found.low:.3g}–{found.high:.3g})"


def _quality(psnr: float | None) -> str:
    if psnr is None:
        return ""
    return "identical" if psnr == math.inf else f"{psnr:.1f} dB"
