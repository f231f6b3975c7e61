"""Compiles one graph in a process of its own: its memory goes back to the system, and a crash stays outside."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.engine import EngineSpec
from unipic2_edge.runtime.errors import UserError, WorkError

from .compiler import Compiled, Compiler, Progress, find_compiler


@dataclass(frozen=True)
class Cost:
    """What compiling took: seconds, and the largest resident memory in bytes (none where the system does not say)."""

    seconds: float
    peak_bytes: int | None


def compile_graph(bundle: Bundle, spec: EngineSpec, output: Path, progress: Progress) -> tuple[Compiled, Cost]:
    """Compile a graph with the compiler of its backend, isolated if that compiler asks for it.

    Raises:
        UserError: what the compiler raised.
        WorkError: the process died; the system ends one that wants more memory than there is.
    """
    compiler = find_compiler(spec.backend)
    if not compiler.isolated:
        return _timed(compiler, bundle, spec, output, progress)
    context = multiprocessing.get_context("spawn")
    answers, questions = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(questions, bundle.folder, spec, output), daemon=True)
    process.start()
    questions.close()
    try:
        return _listen(answers, spec, progress)
    except EOFError:
        process.join()
        raise WorkError(
            f"the compiler of {spec.graph} died (exit code {process.exitcode})",
            "most likely memory ran out: see `build --dry-run` for what it needs; close other programs",
        ) from None
    finally:
        process.kill()
        process.join()


def _listen(answers: Connection, spec: EngineSpec, progress: Progress) -> tuple[Compiled, Cost]:
    """Pass progress on until the result or the error comes."""
    while True:
        message = answers.recv()
        if isinstance(message, UserError):
            raise message
        if isinstance(message, Exception):
            raise WorkError(f"compiling {spec.graph} failed: {message}", "run again with --verbose and report it")
        if isinstance(message[0], str):
            progress(*message)
        else:
            return message[0], message[1]


def _work(answers: Connection, folder: Path, spec: EngineSpec, output: Path) -> None:
    """The process: compile, and send progress, then the result or the error. Ends when nobody listens any more."""
    try:
        try:
            result = _timed(
                find_compiler(spec.backend),
                Bundle(folder),
                spec,
                output,
                lambda phase, share: answers.send((phase, share)),
            )
        except KeyboardInterrupt:
            return
        except OSError as error:
            answers.send(WorkError(f"writing the engine of {spec.graph} failed: {error.strerror}", "free some space"))
        except Exception as error:
            answers.send(error if isinstance(error, UserError) else RuntimeError(f"{type(error).__name__}: {error}"))
        else:
            answers.send(result)
    except (BrokenPipeError, ConnectionError):
        return


def _timed(
    compiler: Compiler, bundle: Bundle, spec: EngineSpec, output: Path, progress: Progress
) -> tuple[Compiled, Cost]:
    start = time.perf_counter()
    compiled = compiler.compile(bundle, spec, output, progress)
    return compiled, Cost(time.perf_counter() - start, _peak_memory() if compiler.isolated else None)


def _peak_memory() -> int | None:
    """The largest resident size of this process so far, where the system writes it down (Linux)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    for line in status.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
