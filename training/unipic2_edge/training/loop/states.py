"""A run's saved states: `<output>/state/step-N`, whole or not there, the newest few kept.

A state is written beside its place by accelerate (weights, optimisers, averages, random numbers; sharded ones by all
processes), fsynced file by file, and renamed. What a killed process left half-written or half-removed is cleared when
the next one starts.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..errors import CheckpointError
from .stage import Stateful

logger = logging.getLogger(__name__)
_WRITING, _REMOVING = ".tmp-", ".old-"


class RunStates:
    """Saves and restores everything that a run needs to go on exactly where it stood.

    Args:
        folder: `<output>/state`, on a file system that all processes share.
        accelerator: with models, optimisers and whatever else it saves prepared.
        own: by name, what differs from process to process, or is small: each process saves its own.
        kept: how many states stay.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, own: Mapping[str, Stateful], kept: int) -> None:
        self.folder, self.accelerator, self.own, self.kept = folder, accelerator, own, kept

    def clean(self) -> None:
        """Remove what killed processes left."""
        if self.accelerator.is_main_process and self.folder.is_dir():
            for path in self.folder.iterdir():
                if path.name.startswith((_WRITING, _REMOVING)):
                    shutil.rmtree(path, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def save(self, step: int) -> None:
        """Write the state after `step` steps, unless it is there already; all processes take part.

        Raises:
            Exception: whatever the disk has against it; the states that were there stay.
        """
        target, temporary = self.folder / f"step-{step:07d}", self.folder / f"{_WRITING}{step}"
        if target.exists():
            return
        self.accelerator.wait_for_everyone()
        try:
            temporary.mkdir(parents=True, exist_ok=True)
            self.accelerator.save_state(str(temporary), safe_serialization=True)
            mine = {name: each.state_dict() for name, each in self.own.items()}
            torch.save({"world": self.accelerator.num_processes, "own": mine}, temporary / self._file())
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            _sync(temporary)
            temporary.replace(target)
            _sync_folder(self.folder)
            self._prune()
        self.accelerator.wait_for_everyone()

    def load(self) -> int:
        """Take the newest state and return its step, 0 where there is none.

        Raises:
            CheckpointError: it is damaged, of another recipe, or of another number of processes.
        """
        found = self._all()
        if not found:
            return 0
        try:
            self.accelerator.load_state(str(found[-1]))
            self._load_own(found[-1])
        except CheckpointError:
            raise
        except Exception as error:  # of as many kinds as there are formats
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise CheckpointError(
                f"the state {found[-1]} cannot be loaded: {said[0]}",
                "a run goes on with the recipe it began with; remove the folder to go on from the state before, "
                "or give another output",
            ) from error
        return int(found[-1].name.removeprefix("step-"))

    def _load_own(self, state: Path) -> None:
        """States that were written before processes had files of their own hold nothing for them."""
        path = state / self._file()
        if not path.exists() and not (state / "process-0.pt").exists():
            return
        stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False) if path.exists() else {}
        if stored.get("world") != self.accelerator.num_processes:
            raise CheckpointError(
                f"the state {state} is of another number of processes than {self.accelerator.num_processes}",
                "go on with as many as it was begun with",
            )
        for name, each in self.own.items():
            each.load_state_dict(stored["own"][name])

    def _file(self) -> str:
        return f"process-{self.accelerator.process_index}.pt"

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))

    def _prune(self) -> None:
        """Old states leave their names first, so that none is ever seen half-removed."""
        for old in self._all()[: -self.kept]:
            aside = old.with_name(f"{_REMOVING}{old.name}")
            old.replace(aside)
            shutil.rmtree(aside, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Every file and folder below is on the disk when this returns."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as stream:
                os.fsync(stream.fileno())
        elif path.is_dir():
            _sync_folder(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """A folder's own entries; Windows has no such call, and needs none for names to survive a killed process."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
