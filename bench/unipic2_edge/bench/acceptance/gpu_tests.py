"""The step that runs this project's own GPU tests, where it is run from a checkout."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from .step import Job, Made, SkippedError

_NONE_FOUND = 5  # pytest's exit code


def run_tests(job: Job) -> Made:
    """`pytest -m gpu` in a process of its own.

    Raises:
        SkippedError: there is no checkout, no GPU, or no such test.
    """
    checkout = job.setting.checkout
    if checkout is None or not (Path(checkout) / "tests").is_dir():
        raise SkippedError("this is no checkout: the tests are not here")
    if job.setting.gpu is None:
        raise SkippedError("no GPU")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-rf", "tests"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    said = done.stdout.strip().splitlines()
    print(done.stdout, done.stderr)  # into the step's log
    if done.returncode == _NONE_FOUND:
        raise SkippedError("there are no GPU tests")
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", said[-1])}
    failed = [line for line in said if line.startswith("FAILED")]
    problem = None if done.returncode == 0 else (failed[0] if failed else said[-1])
    return Made(results={"counts": counts, "failed": failed}, lines=[said[-1]], problem=problem)
