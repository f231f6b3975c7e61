"""The store of a bundle's engines: found by what they were compiled from, whole or set aside, built once.

One process at a time changes a bundle's engines; the others wait and then find what it built. A kill leaves
engines that are whole, or temporary files that the next build sweeps away.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from filelock import FileLock

from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.engine import (
    ENGINES,
    STORE,
    Contest,
    Engine,
    EngineSpec,
    TargetEngines,
    built_targets,
    engine_path,
    read_target,
    stored_engines,
    write_engine,
    write_target,
)
from unipic2_edge.runtime.errors import BundleError
from unipic2_edge.runtime.files import output_errors, replacing, sha256_of

from .compiler import Compiled
from .worker import Cost

logger = logging.getLogger(__name__)

DAMAGED = f"{ENGINES}/damaged"
_TEMPORARY = ".tmp-*"
#: Compiles into the path it is given.
Compile = Callable[[Path], tuple[Compiled, Cost]]


class Store:
    """The engines of one bundle."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._folder = bundle.folder / STORE

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the bundle's engines for one process; waits for the one that holds them.

        Raises:
            OutputError: the bundle cannot be written to.
        """
        with output_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._bundle.folder / ENGINES / ".lock"):
            for stray in [*self._folder.glob(_TEMPORARY), *self._folder.parent.glob(_TEMPORARY)]:
                stray.unlink(missing_ok=True)
            yield

    def find(self, spec: EngineSpec) -> Engine | None:
        """A whole engine that serves a spec: the very one, or one that holds code for more cards.

        One whose bytes are not the recorded ones is set aside. Bytes are hashed when the file has changed since
        they were last known to be right; the runtime hashes them in any case.
        """
        for engine in sorted(stored_engines(self._bundle), key=lambda found: found.spec != spec):
            if _serves(engine.spec, spec):
                try:
                    return self._checked(engine)
                except BundleError as error:
                    self._set_aside(engine, error.problem)
        return None

    def add(self, spec: EngineSpec, suffix: str, compile_into: Compile) -> Engine:
        """Compile an engine and keep it.

        Raises:
            UserError: what the compiler raised; then the store is as it was.
        """
        path = self._folder / f"{spec.name}{suffix}"
        with replacing(path) as temporary:
            compiled, cost = compile_into(temporary)
            digest, size = sha256_of(temporary), temporary.stat().st_size
        engine = Engine(
            spec=spec,
            file=path.name,
            sha256=digest,
            bytes=size,
            weights_bytes=compiled.weights_bytes,
            activation_bytes=compiled.activation_bytes,
            build_seconds=round(cost.seconds, 3),
            build_peak_bytes=cost.peak_bytes,
            verified_ns=path.stat().st_mtime_ns,
        )
        write_engine(self._bundle, engine)
        return engine

    def assign(self, target: str, engines: dict[str, str], contests: dict[str, Contest] | None = None) -> None:
        """Let graphs of a target be served by engines; those that no target names any more are removed.

        An engine that lost a contest is named by it, and stays for the next build to find.

        Raises:
            OutputError, WorkError: the record cannot be written.
        """
        before, standing = self._named([target]), _standing(self._bundle, target)
        kept = {} if standing is None else standing.engines
        held = {} if standing is None else {key: held for key, held in standing.contests.items() if key not in engines}
        wanted = TargetEngines(
            target=target,
            engines=dict(sorted({**kept, **engines}.items())),
            contests=dict(sorted({**held, **(contests or {})}.items())),
        )
        if standing != wanted:
            write_target(self._bundle, wanted)
        for name in before - self._named(built_targets(self._bundle)):
            self._remove(name)

    def _checked(self, engine: Engine) -> Engine:
        path = engine_path(self._bundle, engine)
        changed = path.stat().st_mtime_ns
        if changed == engine.verified_ns:
            return engine
        found = sha256_of(path)
        if found != engine.sha256:
            raise BundleError(f"{path} is damaged: SHA-256 {found}, recorded {engine.sha256}")
        known = msgspec.structs.replace(engine, verified_ns=changed)
        write_engine(self._bundle, known)
        return known

    def _set_aside(self, engine: Engine, problem: str) -> None:
        """Move a damaged engine out of the store, where it can be looked at; one of each name is kept."""
        aside = self._bundle.folder / DAMAGED
        aside.mkdir(exist_ok=True)
        logger.warning("building %s again, the old one is in %s: %s", engine.spec.graph, aside, problem)
        if (self._folder / engine.file).exists():
            (self._folder / engine.file).replace(aside / engine.file)
        self._remove(engine.spec.name)

    def _named(self, targets: Iterable[str]) -> set[str]:
        """The engines that targets name; a damaged record names none."""
        records = (_standing(self._bundle, target) for target in targets)
        known = [record for record in records if record is not None]
        lost = {name for record in known for contest in record.contests.values() for name in contest.seconds}
        return lost | {name for record in known for name in record.engines.values()}

    def _remove(self, name: str) -> None:
        for path in sorted(self._folder.glob(f"{name}.*"), key=lambda found: found.suffix != ".json"):
            path.unlink(missing_ok=True)


def _standing(bundle: Bundle, target: str) -> TargetEngines | None:
    try:
        return read_target(bundle, target)
    except BundleError:
        return None


def _serves(standing: EngineSpec, wanted: EngineSpec) -> bool:
    """Equal but for capabilities, of which the standing engine may have more."""
    if set(wanted.capabilities) - set(standing.capabilities):
        return False
    return msgspec.structs.replace(standing, capabilities=wanted.capabilities) == wanted
