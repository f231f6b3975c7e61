"""A benchmark's report: what was measured, with which settings, on which machine."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from unipic2_edge.runtime.files import write_bytes

from .machine import machine


@dataclass(frozen=True)
class Report:
    """One benchmark's result; `lines` are for people and are not stored."""

    benchmark: str
    settings: dict[str, object]
    results: dict[str, object]
    lines: list[str] = field(default_factory=list)
    machine: dict[str, object] = field(default_factory=machine)
    when: str = field(default_factory=lambda: datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"))

    def to_dict(self) -> dict[str, object]:
        """JSON-ready fields."""
        names = ("benchmark", "when", "settings", "results", "machine")
        return {name: getattr(self, name) for name in names}


def write_report(path: Path, report: Report) -> None:
    """Write a report as JSON, atomically.

    Raises:
        OutputError, WorkError: the file cannot be written.
    """
    write_bytes(path, (json.dumps(report.to_dict(), indent=2) + "\n").encode())
