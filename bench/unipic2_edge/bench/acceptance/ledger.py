"""The ledger: a run's report on disk, written anew after every step, and read back to go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from unipic2_edge.runtime.errors import RequestError

from ..results import Report, write_report
from .goals import goals
from .step import Record, Setting

NAME = "accept.json"
BENCHMARK = "accept"


class Ledger:
    """Records of the steps that were done, by name.

    Args:
        path: of the report; one that stands there is gone on with.
        settings: of this run, JSON-ready (see `told`).
        machine: what it runs on.

    Raises:
        RequestError: what stands there is no such report, or of other settings.
    """

    def __init__(self, path: Path, settings: dict[str, object], machine: dict[str, object]) -> None:
        self.path = path
        self.records: dict[str, Record] = {}
        self._report = Report(BENCHMARK, settings, {}, machine=machine)
        if path.exists():
            self._read()

    def add(self, record: Record) -> None:
        """Write a record down, and the report with it: temp file, then rename.

        Raises:
            OutputError, WorkError: it cannot be written.
        """
        self.records[record.name] = record
        self.write()

    def write(self) -> None:
        """Write the report.

        Raises:
            OutputError, WorkError: it cannot be written.
        """
        write_report(self.path, self.report())

    def report(self) -> Report:
        """The report of what was done so far."""
        results: dict[str, Any] = {
            "steps": [msgspec.to_builtins(record) for record in self.records.values()],
            "goals": [msgspec.to_builtins(goal) for goal in goals(self.records, self._report.settings)],
        }
        own = self._report
        return Report(own.benchmark, own.settings, results, machine=own.machine, when=own.when)

    def count(self, status: str) -> int:
        """How many steps ended so."""
        return sum(record.status == status for record in self.records.values())

    def _read(self) -> None:
        own = self._report
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8"))
            if stored["benchmark"] != BENCHMARK:
                raise RequestError(f"{self.path} is another report", "give another folder with -o")
            records = msgspec.convert(stored["results"]["steps"], list[Record])
            settings, when = dict(stored["settings"]), str(stored["when"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RequestError(
                f"{self.path} is damaged: {type(error).__name__}", "remove it, or give another folder with -o"
            ) from error
        differing = sorted(
            name for name in {*settings, *own.settings} if settings.get(name) != _plain(own.settings.get(name))
        )
        if differing:
            raise RequestError(
                f"{self.path} is of a run with another {differing[0].replace('_', ' ')}",
                "go on with the same options, or give another folder with -o",
            )
        self.records = {record.name: record for record in records}
        self._report = Report(own.benchmark, own.settings, {}, machine=own.machine, when=when)


def told(setting: Setting) -> dict[str, object]:
    """What a report says of a run's settings: no paths, and nothing that only says how long to wait."""
    return {
        "device": setting.device,
        "capability": setting.capability,
        "small": None if setting.small is None else Path(setting.small).name,
        "words": None if setting.words is None else Path(setting.words).name,
        "model": setting.model,
        "layers": setting.layers,
        "workloads": [f"{task} {width}x{height}" for task, width, height in setting.workloads],
        "peers": list(setting.peers),
        "prompts": setting.prompts,
        "threads": setting.threads,
    }


def _plain(value: object) -> object:
    return json.loads(json.dumps(value))
