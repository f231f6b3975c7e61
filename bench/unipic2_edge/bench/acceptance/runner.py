"""The run: every step of the table in turn, those that were done passed over, each recorded before the next begins."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from importlib.util import find_spec

from unipic2_edge.runtime.errors import RequestError
from unipic2_edge.runtime.picker import GPU_BACKENDS, PROCESSOR_BACKENDS

from .ledger import Ledger
from .process import run_in_process
from .step import Job, Record, Setting, Step

logger = logging.getLogger(__name__)

ALL = "all"
_EXTRAS = {**GPU_BACKENDS, **PROCESSOR_BACKENDS, "cuda": "rtx", "pynvml": "rtx", "torch": "export", "pytest": "dev"}


def run_steps(
    setting: Setting,
    steps: Sequence[Step],
    ledger: Ledger,
    limit: float,
    again: str | None = None,
    done: Callable[[Record], None] = lambda record: None,
) -> None:
    """Do every step that is not done yet.

    Args:
        setting: of the run.
        steps: the table, each after those that it builds on.
        ledger: where they are recorded.
        limit: seconds of each.
        again: what is done again although it is recorded: "all", or words with commas between them, each a status, a
            group or a step; steps that build on it are done again as well.
        done: called with every new record.

    Raises:
        RequestError: `again` names nothing that there is.
        OutputError, WorkError: nothing can be written.
    """
    redone = chosen_again(steps, ledger, again)
    for step in steps:
        before = ledger.records.get(step.name)
        if before is not None and step.name not in redone:
            continue
        record = _unmet(step, ledger) or _missing(step)
        if record is None:
            shown = {
                name: ledger.records[name].results
                for name in (*step.after, *step.uses)
                if name in ledger.records and ledger.records[name].status == "passed"
            }
            job = Job(setting=setting, step=step, found=shown, again=before is not None)
            record = run_in_process(job, limit)
        ledger.add(record)
        logger.info("%s: %s in %.1f s %s", record.name, record.status, record.seconds, record.reason)
        done(record)


def chosen_again(steps: Sequence[Step], ledger: Ledger, again: str | None) -> frozenset[str]:
    """The names of recorded steps that are done again.

    Raises:
        RequestError: a word is no status, group or step.
    """
    if again is None:
        return frozenset()
    words = {word.strip() for word in again.split(",")}
    known = {ALL, "passed", "failed", "skipped", *(step.name for step in steps), *(step.group for step in steps)}
    if words - known:
        raise RequestError(
            f"there is nothing called {sorted(words - known)[0]!r} to do again",
            f"use all, failed, skipped, a step's name or one of {', '.join(dict.fromkeys(s.group for s in steps))}",
        )
    chosen: set[str] = set()
    for step in steps:  # in their order: what a step builds on stands before it
        record = ledger.records.get(step.name)
        if record is not None and (
            words & {ALL, step.name, step.group, record.status} or chosen & {*step.after, *step.uses}
        ):
            chosen.add(step.name)
    return frozenset(chosen)


def _unmet(step: Step, ledger: Ledger) -> Record | None:
    """Skipped, where a step that it builds on did not pass."""
    for name in step.after:
        record = ledger.records.get(name)
        if record is None or record.status != "passed":
            how = "was not done" if record is None else f"was {record.status}" if record.reason == "" else record.reason
            verb = "failed" if record is not None and record.status == "failed" else "is not there"
            return _skipped(step, f"{name} {verb}: {how}")
    return None


def _missing(step: Step) -> Record | None:
    """Skipped, where a package is not installed."""
    missing = next((name for name in step.needs if find_spec(name) is None), None)
    if missing is None:
        return None
    extra = _EXTRAS.get(missing)
    mend = f'; pip install "unipic2-edge[{extra}]"' if extra else ""
    return _skipped(step, f"missing package: {missing}{mend}")


def _skipped(step: Step, reason: str) -> Record:
    return Record(name=step.name, title=step.title, status="skipped", seconds=0.0, reason=reason)
