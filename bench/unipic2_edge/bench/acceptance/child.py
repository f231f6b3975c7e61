"""A step's own process: reads its job, does it, writes its record; ends when whoever started it is gone.

python -m unipic2_edge.bench.acceptance.child JOB.json RECORD.json
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from importlib import import_module
from pathlib import Path

import msgspec

from unipic2_edge.runtime.errors import MemoryRanOutError, MissingDependencyError, UserError
from unipic2_edge.runtime.files import write_bytes

from .step import Job, Made, Record, SkippedError, Status

_LONGEST = 400  # characters of a reason


def main(job_file: str, record_file: str) -> None:
    """Do the job of a file and write its record to another."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job = msgspec.json.decode(Path(job_file).read_bytes(), type=Job)
    write_bytes(Path(record_file), msgspec.json.encode(perform(job)))
    # CUDA's and other libraries' farewells may hang or crash; the record stands.
    sys.stdout.flush()
    os._exit(0)


def perform(job: Job) -> Record:
    """Do a job in this process; whatever it raises becomes a record."""
    step, start = job.step, time.perf_counter()

    def record(status: Status, reason: str = "", made: Made | None = None) -> Record:
        seconds, done = round(time.perf_counter() - start, 3), made or Made(results={})
        return Record(
            name=step.name,
            title=step.title,
            status=status,
            seconds=seconds,
            reason=reason[:_LONGEST],
            results=done.results,
            lines=done.lines,
        )

    try:
        module, _, name = step.run.partition(":")
        made: Made = getattr(import_module(module), name)(job)
    except SkippedError as error:
        return record("skipped", str(error))
    except MissingDependencyError as error:
        return record("skipped", f"missing package: {error}")
    except ModuleNotFoundError as error:
        traceback.print_exc()
        return record("skipped", f"missing package: {error.name}")
    except (MemoryError, MemoryRanOutError) as error:
        return record("skipped", f"too little memory: {_first_line(error)}")
    except UserError as error:
        return record("failed", error.problem)
    except Exception as error:
        traceback.print_exc()
        if type(error).__name__ == "OutOfMemoryError":  # PyTorch's, which is not imported for this
            return record("skipped", f"too little memory: {_first_line(error)}")
        return record("failed", f"{type(error).__name__}: {_first_line(error)}")
    return record("passed" if made.problem is None else "failed", made.problem or "", made)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _end_with_parent() -> None:
    """Wait for the end of stdin, whose other side is the parent's alone, then end with all that came of this one."""
    while os.read(0, 1):
        pass
    from .process import end_tree

    end_tree(os.getpid())


if __name__ == "__main__":
    main(*sys.argv[1:])
