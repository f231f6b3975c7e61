"""`bench startup`: fresh processes, from nothing to the first picture."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from unipic2_edge.runtime.errors import WorkError

from .statistics import Spread, spread

_CLI = [sys.executable, "-m", "unipic2_edge.runtime.cli"]


def measure_startup(
    bundle: Path,
    runs: int,
    steps: int | None,
    done: Callable[[str], None] = lambda name: None,
    options: Sequence[str] = (),
) -> dict[str, Spread]:
    """Seconds of whole processes: a bare interpreter, `--help`, importing the runtime, and `generate` to the picture.

    All include Python's own start, which the first one gives by itself.

    Args:
        bundle: its folder.
        runs: of each process.
        steps: of the picture; None is the bundle's.
        done: called after each process.
        options: further ones for `generate`.

    Raises:
        WorkError: a process failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "first.png"
        generate = [*_CLI, "generate", str(bundle), "a red circle", "-o", str(picture), "--force", "--seed", "1"]
        generate += options
        if steps is not None:
            generate += ["--steps", str(steps)]
        commands = {
            "python": [sys.executable, "-c", "pass"],
            "help": [*_CLI, "--help"],
            "import": [sys.executable, "-c", "import unipic2_edge.runtime.pipeline"],
            "first_picture": generate,
        }
        samples: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(runs):
            for name, command in commands.items():  # interleaved: all share the machine's mood
                samples[name].append(_seconds(command))
                done(name)
    return {name: spread(values) for name, values in samples.items()}


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if finished.returncode:
        raise WorkError(f"{' '.join(command[2:5])} failed: {finished.stderr.strip()}", "run the command by hand")
    return seconds
