"""The parent's side of a step: starts its process, waits for it no longer than its limit, and reads its record."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import msgspec

from unipic2_edge.runtime.files import output_errors

from .step import Job, Record

_CHILD = "unipic2_edge.bench.acceptance.child"
_SHOWN = 300  # characters of a log's last line


def run_in_process(job: Job, limit: float) -> Record:
    """A step's record, whatever became of its process; its output is in `logs/` of the work folder.

    Args:
        job: what is to be done.
        limit: seconds, after which the process and all of its children are ended.

    Raises:
        OutputError, WorkError: the work folder cannot be written to.
    """
    logs = job.setting.folder / "logs"
    with output_errors(logs):
        logs.mkdir(parents=True, exist_ok=True)
        name = job.step.name.replace("/", "-")
        log, job_file, record_file = (logs / f"{name}.{kind}" for kind in ("log", "job.json", "record.json"))
        job_file.write_bytes(msgspec.json.encode(job))
        record_file.unlink(missing_ok=True)
        start = time.perf_counter()
        with log.open("wb") as output:
            code = _wait([sys.executable, "-m", _CHILD, str(job_file), str(record_file)], output, limit)
        seconds = round(time.perf_counter() - start, 3)
    if record_file.is_file():
        made = msgspec.json.decode(record_file.read_bytes(), type=Record)
        return msgspec.structs.replace(made, seconds=seconds)
    reason = f"did not end within {limit:g} s" if code is None else f"{_died(code)}{_last_line(log)}"
    return Record(name=job.step.name, title=job.step.title, status="failed", seconds=seconds, reason=reason)


def _wait(command: Sequence[str], output: IO[bytes], limit: float) -> int | None:
    """A command's exit code; None if it had to be ended. Its stdin stays open as long as this process lives."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:  # whatever ended it, also Ctrl-C: nothing is left running
            end_tree(process.pid)


def end_tree(pid: int) -> None:
    """Kill a step's process with all that came of it, also helpers that libraries leave behind when it has ended."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in [*parent.children(recursive=True), parent]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    if os.name == "posix":  # its session is its own
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _died(code: int) -> str:
    """What an exit code says, for people."""
    if code >= 0:
        return f"its process ended with code {code} and no record"
    with contextlib.suppress(ValueError):
        name = signal.Signals(-code).name
        why = ", as a rule for want of memory" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{why}"
    return f"its process was ended by signal {-code}"


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f": {lines[-1][:_SHOWN]}" if lines else ""
