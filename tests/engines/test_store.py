"""The store: when an engine is kept, when it is made again, and that it is whole or not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from unipic2_edge.engines import build as build_module
from unipic2_edge.engines.store import DAMAGED, Store
from unipic2_edge.runtime.bundle import Bundle, FileEntry, write_manifest
from unipic2_edge.runtime.engine import (
    STORE,
    Engine,
    engine_path,
    read_target,
    stored_engines,
    write_engine,
)
from unipic2_edge.runtime.errors import BundleError, WorkError
from unipic2_edge.runtime.files import sha256_of
from unipic2_edge.runtime.opening import open_session

from .conftest import build_for, flip


def _cached(bundle: Bundle, threads: int | None = None) -> list[bool]:
    return [made.cached for made in build_for(bundle, "cpu", threads)]


def _engine(bundle: Bundle, graph: str) -> Engine:
    return next(engine for engine in stored_engines(bundle) if engine.spec.graph == graph)


def _store_files(bundle: Bundle) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (bundle.folder / STORE).iterdir()}


def test_the_second_build_is_a_hit_and_touches_nothing(bundle: Bundle) -> None:
    assert _cached(bundle) == [False, False]
    stamps = _store_files(bundle)
    assert _cached(bundle) == [True, True]
    assert _store_files(bundle) == stamps


def test_a_hit_reads_no_engine(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    build_for(bundle, "cpu")
    monkeypatch.setattr("unipic2_edge.engines.store.sha256_of", None)
    assert _cached(bundle) == [True, True]


def test_engines_are_deterministic(bundle: Bundle) -> None:
    first = [(made.engine.spec, made.engine.sha256) for made in build_for(bundle, "cpu")]
    for path in (bundle.folder / STORE).iterdir():
        path.unlink()
    assert [(made.engine.spec, made.engine.sha256) for made in build_for(bundle, "cpu")] == first


@pytest.mark.parametrize("name", ["line", "picture"])
def test_a_damaged_engine_is_refused_by_the_runtime_set_aside_and_built_again(bundle: Bundle, name: str) -> None:
    build_for(bundle, "cpu")
    path = engine_path(bundle, _engine(bundle, name))
    flip(path, path.stat().st_size // 2)
    with pytest.raises(BundleError, match="damaged"):
        open_session(bundle, name)
    assert _cached(bundle).count(False) == 1
    assert [aside.name for aside in (bundle.folder / DAMAGED).iterdir()] == [path.name]
    assert _cached(bundle) == [True, True]
    open_session(bundle, name)


def test_a_truncated_engine_is_built_again(bundle: Bundle) -> None:
    build_for(bundle, "cpu")
    path = engine_path(bundle, _engine(bundle, "line"))
    path.write_bytes(path.read_bytes()[:100])
    assert _cached(bundle).count(False) == 1


def test_a_missing_engine_is_built_again(bundle: Bundle) -> None:
    build_for(bundle, "cpu")
    engine_path(bundle, _engine(bundle, "line")).unlink()
    assert _cached(bundle).count(False) == 1


def test_an_engine_that_was_copied_is_hashed_once_and_kept(bundle: Bundle) -> None:
    build_for(bundle, "cpu")
    path = engine_path(bundle, _engine(bundle, "line"))
    os.utime(path, ns=(1, 1))
    assert _cached(bundle) == [True, True]
    assert _engine(bundle, "line").verified_ns == 1


@pytest.mark.parametrize("where", [b"{", b"onnxruntime", b"sha256"])
def test_a_damaged_record_is_built_again(bundle: Bundle, where: bytes) -> None:
    build_for(bundle, "cpu")
    record = bundle.folder / STORE / f"{_engine(bundle, 'line').spec.name}.json"
    flip(record, record.read_bytes().index(where))
    assert _cached(bundle).count(False) == 1
    open_session(bundle, "line")


def test_a_damaged_target_is_assigned_again(bundle: Bundle) -> None:
    build_for(bundle, "cpu")
    flip(bundle.folder / "engines" / "cpu.json", 0)
    assert _cached(bundle) == [True, True]
    assert read_target(bundle, "cpu") is not None


@pytest.mark.parametrize("change", [{"backend_version": "0.0.1"}, {"settings": {}}, {"precision": "float16"}])
def test_engines_of_other_versions_settings_or_precisions_do_not_serve(
    bundle: Bundle, change: dict[str, object]
) -> None:
    build_for(bundle, "cpu")
    engine = _engine(bundle, "line")
    other = msgspec.structs.replace(engine.spec, **change)  # type: ignore[arg-type]
    assert other.key != engine.spec.key
    assert Store(bundle).find(other) is None


def test_engines_of_older_weights_are_removed_when_they_are_replaced(bundle: Bundle) -> None:
    build_for(bundle, "cpu")
    old = _engine(bundle, "line")
    weights = bundle.folder / "weights" / "line.safetensors"
    flip(weights, -1)
    files = bundle.manifest.files | {
        "weights/line.safetensors": FileEntry(sha256=sha256_of(weights), bytes=weights.stat().st_size)
    }
    write_manifest(bundle.folder, msgspec.structs.replace(bundle.manifest, files=files))
    changed = Bundle(bundle.folder)
    with pytest.raises(BundleError, match="another graph or other weights"):
        open_session(changed, "line")
    assert _cached(changed).count(False) == 1
    assert old.spec.name not in {engine.spec.name for engine in stored_engines(changed)}
    assert len(list((bundle.folder / STORE).iterdir())) == 4  # two engines and their records


def test_an_engine_for_more_cards_serves_fewer(bundle: Bundle) -> None:
    build_for(bundle, "cpu")
    engine = _engine(bundle, "line")
    path = engine_path(bundle, engine)
    for_three = msgspec.structs.replace(engine.spec, capabilities=("8.6", "8.9", "12.0"))
    copy = path.with_name(f"{for_three.name}{path.suffix}")
    copy.write_bytes(path.read_bytes())
    write_engine(
        bundle,
        msgspec.structs.replace(engine, spec=for_three, file=copy.name, verified_ns=copy.stat().st_mtime_ns),
    )
    store = Store(bundle)
    for wanted in (("8.9",), ("8.6", "12.0"), ("8.6", "8.9", "12.0")):
        found = store.find(msgspec.structs.replace(engine.spec, capabilities=wanted))
        assert found is not None
        assert found.spec == for_three
    assert store.find(msgspec.structs.replace(engine.spec, capabilities=("7.5", "8.6"))) is None


def test_a_failed_build_keeps_the_engines_that_stood(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    build_for(bundle, "cpu", threads=1)
    before = read_target(bundle, "cpu")
    real = build_module.compile_graph

    def fail_late(*arguments: object) -> object:
        if arguments[1].graph == "picture":  # type: ignore[attr-defined]
            raise WorkError("no space left")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(build_module, "compile_graph", fail_late)
    with pytest.raises(WorkError):
        build_for(bundle, "cpu", threads=2)
    assert read_target(bundle, "cpu") == before
    assert not list((bundle.folder / STORE).glob(".tmp-*"))
    open_session(bundle, "picture")
    monkeypatch.undo()
    assert _cached(bundle, threads=2) == [True, False]  # what was finished is found again


_BUILD = """
import sys
from pathlib import Path

from unipic2_edge.engines.build import build_targets
from unipic2_edge.runtime.bundle import Bundle

if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    print([made.cached for made in build_targets(Bundle(Path(sys.argv[1])), sys.argv[2])], flush=True)
"""


def _builder(bundle: Bundle, tmp_path: Path, target: str) -> subprocess.Popen[str]:
    script = tmp_path / "builder.py"
    script.write_text(_BUILD)
    process = subprocess.Popen(
        [sys.executable, str(script), str(bundle.folder), target],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu", "rtx-40"])
def test_eight_processes_that_ask_at_once_build_once(bundle: Bundle, tmp_path: Path, target: str) -> None:
    processes = [_builder(bundle, tmp_path, target) for _ in range(8)]
    for process in processes:
        _go(process)
    answers = sorted(process.communicate(timeout=240)[0].strip() for process in processes)
    assert answers == ["[False, False]", *["[True, True]"] * 7]


@pytest.mark.slow
@pytest.mark.parametrize("wait", [0.0, 0.05, 0.2, 0.5, 1.0, 2.0])
def test_a_killed_build_leaves_the_old_engines_or_the_new(bundle: Bundle, tmp_path: Path, wait: float) -> None:
    build_for(bundle, "cpu")
    before = read_target(bundle, "cpu")
    process = _builder(bundle, tmp_path, "rtx-40")
    _go(process)
    time.sleep(wait)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert read_target(bundle, "cpu") == before
    for engine in stored_engines(bundle):
        assert sha256_of(engine_path(bundle, engine)) == engine.sha256
    build_for(bundle, "rtx-40")
    assert not list((bundle.folder / STORE).glob(".tmp-*"))
    assert [made.cached for made in build_for(bundle, "rtx-40")] == [True, True]
