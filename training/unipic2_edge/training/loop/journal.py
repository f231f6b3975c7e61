"""A run's log: `log.jsonl`, one whole line a record, and TensorBoard's in `logs/`; written by the main process alone.

A run that goes on from a state drops the records behind it first, so that no step stands there twice, and none torn.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

FINISHED = "finished"  # marks the scores of the finished run, which follow its last state


class Journal:
    """Records of a run in its output folder.

    Args:
        output: the run's folder.
        step: the step from which the run goes on; later records are dropped.
        writing: whether this process writes.
    """

    def __init__(self, output: Path, step: int, writing: bool = True) -> None:
        self._path = output / "log.jsonl"
        self._board: SummaryWriter | None = None
        if writing:
            output.mkdir(parents=True, exist_ok=True)
            self._drop_after(step)
            self._board = SummaryWriter(output / "logs", purge_step=step + 1 if step else None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One record."""
        if self._board is None:
            return
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        self._board.flush()
        numbers = ", ".join(f"{json.dumps(name)}: {_number(value)}" for name, value in values.items())
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(f'{{"step": {step}, {numbers}}}\n')

    def picture(self, step: int, path: Path) -> None:
        """A sample grid, if it was drawn, for TensorBoard."""
        if self._board is not None and path.is_file():
            with Image.open(path) as picture:
                self._board.add_image("samples", np.asarray(picture.convert("RGB")), step, dataformats="HWC")
            self._board.flush()

    def close(self) -> None:
        """Nothing more is written."""
        if self._board is not None:
            self._board.close()

    def _drop_after(self, step: int) -> None:
        if not self._path.exists():
            return
        with self._path.open(encoding="utf-8", errors="replace") as stream:
            kept = [line for line in stream if _stands(line, step)]
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as stream:
            stream.writelines(kept)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(self._path)


def _stands(line: str, step: int) -> bool:
    """Whether a line is whole, and of a step that the state has."""
    try:
        record = json.loads(line)
        return line.endswith("\n") and int(record["step"]) <= step and FINISHED not in record
    except (ValueError, KeyError, TypeError):
        return False


def _number(value: float) -> str:
    """What a float32 holds; JSON has no word for what is not finite."""
    return f"{value:.8g}" if np.isfinite(value) else "null"
