"""The two doors to a peer: in this process, and in a process, or an interpreter, of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from .guest import JOB_ARRAYS, load_arrays, said, save_arrays, timed
from .peer import CannotError, Job, Made, Peer

#: Seconds that a peer may take for one answer: torch.compile of a large model takes minutes.
PATIENCE = 1800.0
#: Modules that travel with a peer's own into another interpreter.
_COMPANIONS = ("peer", "guest", "diffusing")


@dataclass(frozen=True)
class Entrant:
    """A peer that is not open yet.

    Attributes:
        name: for people, unlike that of any other in a run.
        module: of the package's `peers`, or any other that has `open_peer(settings)`.
        settings: for `open_peer`; JSON-ready.
        python: another interpreter to run it in, with nothing but the peer's own modules; None is this one.
        details: what stands beside its figures in a report.
        threads: of the processor.
    """

    name: str
    module: str
    settings: dict[str, Any] = field(default_factory=dict)
    python: str | None = None
    details: dict[str, str] = field(default_factory=dict)
    threads: int | None = None


class Door(Protocol):
    """An opened peer.

    Attributes:
        about: what the peer says of itself.
        seconds: that opening it took.
    """

    about: dict[str, str]
    seconds: float

    def make(self, job: Job) -> tuple[Made, float]:
        """What it made, and in how many seconds.

        Raises:
            CannotError: why it did not.
        """
        ...

    def resident(self) -> int | None:
        """Bytes that its process holds in memory; none where it has no process of its own."""
        ...

    def close(self) -> None:
        """Give its memory back."""
        ...


class InsideDoor:
    """A peer in this process.

    Args:
        peer: loaded.
        seconds: that loading it took.
    """

    def __init__(self, peer: Peer, seconds: float = 0.0) -> None:
        self._peer, self.seconds = peer, seconds
        self.about = dict(peer.about())

    def make(self, job: Job) -> tuple[Made, float]:
        """See `Door.make`; whatever a library raises is the peer's answer."""
        try:
            return timed(self._peer, job)
        except Exception as error:
            raise CannotError(said(error)) from error

    def resident(self) -> int | None:
        """Its memory is this process's."""
        return None

    def close(self) -> None:
        """See `Door.close`."""
        self._peer.close()


def open_inside(entrant: Entrant) -> Door:
    """Load a peer in this process.

    Raises:
        CannotError: why it cannot be loaded.
    """
    if entrant.python is not None:
        raise CannotError("another interpreter needs a process of its own")
    start = time.perf_counter()
    try:
        peer: Peer = import_module(entrant.module).open_peer(entrant.settings)
    except Exception as error:
        raise CannotError(said(error)) from error
    return InsideDoor(peer, time.perf_counter() - start)


class ProcessDoor:
    """A peer in a process of its own, which lives until the door is closed.

    Args:
        entrant: what to open.
        patience: seconds that an answer may take, an attribute too.

    Raises:
        CannotError: why it cannot be loaded.
    """

    def __init__(self, entrant: Entrant, patience: float = PATIENCE) -> None:
        self.patience = patience
        self._folder = Path(tempfile.mkdtemp(prefix="unipic2-edge-peer-"))
        self._log = (self._folder / "log").open("w+", encoding="utf-8", errors="replace")
        try:
            self._process = _start(entrant, self._folder, self._log)
            opened = self._ask({"do": "open", "settings": entrant.settings})
        except BaseException:
            self.close()
            raise
        self.about: dict[str, str] = opened["about"]
        self.seconds: float = opened["seconds"]

    def make(self, job: Job) -> tuple[Made, float]:
        """See `Door.make`."""
        plain = {name: value for name, value in vars(job).items() if name not in JOB_ARRAYS}
        arrays = save_arrays(job, JOB_ARRAYS, self._folder, "job")
        answer = self._ask({"do": "make", "job": plain, "arrays": arrays, "folder": str(self._folder)})
        return Made(**load_arrays(answer["arrays"])), answer["seconds"]

    def resident(self) -> int | None:
        """See `Door.resident`."""
        import psutil

        try:
            return int(psutil.Process(self._process.pid).memory_info().rss)
        except psutil.Error:
            return None

    def close(self) -> None:
        """End the process: it is asked to, and killed where it does not."""
        process = getattr(self, "_process", None)
        if process is not None:
            try:
                process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """An answer; a process that dies, hangs or says something else gives a reason.

        Raises:
            CannotError: the reason.
        """
        pipes = self._process.stdin, self._process.stdout
        hung = threading.Event()

        def give_up() -> None:
            hung.set()
            self._process.kill()

        killer = threading.Timer(self.patience, give_up)
        killer.start()
        try:
            if pipes[0] is None or pipes[1] is None:
                raise CannotError("its process has no pipes")
            pipes[0].write(json.dumps(request) + "\n")
            pipes[0].flush()
            answer: dict[str, Any] = json.loads(pipes[1].readline())
        except (OSError, ValueError) as error:
            raise CannotError(self._last_words(hung.is_set())) from error
        finally:
            killer.cancel()
        if "cannot" in answer:
            raise CannotError(answer["cannot"])
        return answer

    def _last_words(self, hung: bool) -> str:
        """Why a process ended, with the last line that it wrote."""
        code = self._process.wait()
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        how = f"gave no answer in {self.patience:g} s" if hung else f"died with {code}"
        return f"its process {how}{f': {lines[-1]}' if lines else ''}"


def _start(entrant: Entrant, folder: Path, log: Any) -> subprocess.Popen[str]:
    """The process: this interpreter with this one's modules, or another with what `_pack` gives it.

    Raises:
        CannotError: the interpreter cannot be started.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    if entrant.python is not None:
        environment["PYTHONPATH"] = str(_pack(entrant.module, folder))
        environment.pop("PYTHONHOME", None)
    if entrant.threads is not None:
        environment["OMP_NUM_THREADS"] = str(entrant.threads)
    command = [entrant.python or sys.executable, "-m", f"{__package__}.guest", entrant.module]
    try:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, text=True, cwd=folder
        )
    except OSError as error:
        raise CannotError(f"{command[0]} cannot be started: {error.strerror}") from error


def _pack(module: str, folder: Path) -> Path:
    """A folder to import from with the few modules that travel, and none of this interpreter's libraries."""
    root = folder / "modules"
    place = root.joinpath(*str(__package__).split("."))
    place.mkdir(parents=True)
    for package in (place, place.parent):  # an installed package of this name must not come before
        (package / "__init__.py").touch()
    for name in (*_COMPANIONS, module.rpartition(".")[2]):
        shutil.copy(Path(__file__).with_name(f"{name}.py"), place)
    return root
