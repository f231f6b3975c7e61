"""`bench compare BEFORE.json AFTER.json`: what lies between two stored reports, and whether the later one is slower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from unipic2_edge.runtime.errors import RequestError, WorkError

from .regression import changes, read_tolerance, slower
from .reporting.stored import read_reports
from .results import Report


def compare_reports(paths: Sequence[Path], tolerance: str | None) -> Report:
    """Every figure that two reports have in common, and by how much it changed.

    Args:
        paths: the earlier report and the later one.
        tolerance: "5%": how much slower the later one may be.

    Raises:
        RequestError: not two reports, or two that do not compare.
        WorkError: the later one is slower, beyond the tolerance and both spreads.
    """
    if len(paths) != 2:
        raise RequestError(f"two reports compare, not {len(paths)}", "give the earlier one, then the later one")
    allowed = None if tolerance is None else read_tolerance(tolerance)
    before, after = (read_reports([path])[0].fields() for path in paths)
    found = changes(before, after)
    if allowed is not None:
        worse = slower(before, after, allowed)
        if worse:
            raise WorkError(
                f"{paths[1]} is slower than {paths[0]} by more than {tolerance}: {worse[0].line()}"
                f"{f', and {len(worse) - 1} more' if len(worse) > 1 else ''}",
                "see all figures without --fail-if-slower",
            )
    settings: dict[str, object] = {"before": str(paths[0]), "after": str(paths[1]), "allowed": tolerance}
    return Report(
        "changes", settings, {"changes": [asdict(change) for change in found]}, [change.line() for change in found]
    )
