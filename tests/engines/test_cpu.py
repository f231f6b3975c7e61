"""The cpu target: what a build leaves, when it is kept, and when it is made again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from unipic2_edge.engines import cpu
from unipic2_edge.engines.cpu import build_cpu
from unipic2_edge.engines.targets import find_target
from unipic2_edge.runtime.bundle import Bundle, write_manifest
from unipic2_edge.runtime.engine import engine_folder, read_engine_record, write_engine_record
from unipic2_edge.runtime.errors import BundleError, RequestError, WorkError
from unipic2_edge.runtime.session import open_session

CPU = find_target("cpu")


def _inputs(bundle: Bundle, graph: str) -> dict[str, np.ndarray]:
    shape = [side if isinstance(side, int) else 5 for side in bundle.graph(graph).inputs[0].shape]
    return {"x": np.random.default_rng(1).standard_normal(shape, dtype=np.float32)}


def test_an_engine_is_optimised_and_computes_the_same(bundle: Bundle) -> None:
    before = {name: open_session(bundle, name).run(_inputs(bundle, name))["y"] for name in bundle.manifest.graphs}
    made = build_cpu(bundle, CPU)
    assert not made.cached
    optimised = onnx.load(str(engine_folder(bundle, "cpu") / "line.onnx"), load_external_data=False)
    assert "Identity" not in {node.op_type for node in optimised.graph.node}
    for name, expected in before.items():
        np.testing.assert_allclose(
            open_session(bundle, name).run(_inputs(bundle, name))["y"], expected, rtol=1e-5, atol=1e-5
        )


def test_weights_are_not_stored_twice(bundle: Bundle) -> None:
    build_cpu(bundle, CPU)
    for name in bundle.manifest.graphs:
        model = onnx.load(str(engine_folder(bundle, "cpu") / f"{name}.onnx"), load_external_data=False)
        inside = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
        assert inside < 256, f"{name} holds {inside} bytes of weights"
        locations = {
            entry.value
            for tensor in model.graph.initializer
            for entry in tensor.external_data
            if entry.key == "location"
        }
        assert locations == {f"{name}.safetensors"}


def test_engines_suit_any_processor(bundle: Bundle) -> None:
    build_cpu(bundle, CPU)
    model = onnx.load(str(engine_folder(bundle, "cpu") / "picture.onnx"), load_external_data=False)
    assert "com.microsoft.nchwc" not in {node.domain for node in model.graph.node}


def test_the_second_build_is_a_hit_and_touches_nothing(bundle: Bundle) -> None:
    first = build_cpu(bundle, CPU)
    stamps = {path: path.stat().st_mtime_ns for path in engine_folder(bundle, "cpu").iterdir()}
    second = build_cpu(bundle, CPU)
    assert second.cached
    assert second.record == first.record
    assert {path: path.stat().st_mtime_ns for path in engine_folder(bundle, "cpu").iterdir()} == stamps


def test_builds_are_deterministic(bundle: Bundle) -> None:
    first = build_cpu(bundle, CPU).record
    (engine_folder(bundle, "cpu") / "engine.json").unlink()
    assert build_cpu(bundle, CPU).record == first


def _flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["line", "picture"])
def test_a_damaged_engine_is_refused_by_the_runtime_and_built_again(bundle: Bundle, name: str) -> None:
    build_cpu(bundle, CPU)
    path = engine_folder(bundle, "cpu") / f"{name}.onnx"
    _flip(path, path.stat().st_size // 2)
    with pytest.raises(BundleError, match="damaged"):
        open_session(bundle, name)
    assert not build_cpu(bundle, CPU).cached
    assert build_cpu(bundle, CPU).cached
    open_session(bundle, name).run(_inputs(bundle, name))


@pytest.mark.parametrize("where", [b"{", b"onnxruntime", b"sha256"])
def test_a_damaged_record_is_refused_by_the_runtime_and_built_again(bundle: Bundle, where: bytes) -> None:
    build_cpu(bundle, CPU)
    record = engine_folder(bundle, "cpu") / "engine.json"
    _flip(record, record.read_bytes().index(where))
    with pytest.raises(BundleError, match="damaged"):
        open_session(bundle, "line")
    assert not build_cpu(bundle, CPU).cached
    open_session(bundle, "line").run(_inputs(bundle, "line"))


def test_a_missing_engine_file_is_built_again(bundle: Bundle) -> None:
    build_cpu(bundle, CPU)
    (engine_folder(bundle, "cpu") / "line.onnx").unlink()
    assert not build_cpu(bundle, CPU).cached


@pytest.mark.parametrize("change", [{"backend_version": "0.0.1"}, {"settings": {}}, {"graphs": {}}])
def test_engines_of_other_versions_settings_or_graphs_are_built_again(
    bundle: Bundle, change: dict[str, object]
) -> None:
    record = build_cpu(bundle, CPU).record
    write_engine_record(engine_folder(bundle, "cpu"), msgspec.structs.replace(record, **change))
    made = build_cpu(bundle, CPU)
    assert not made.cached
    assert made.record == record


def test_another_number_of_threads_is_another_engine(bundle: Bundle) -> None:
    build_cpu(bundle, CPU, threads=1)
    made = build_cpu(bundle, CPU, threads=2)
    assert not made.cached
    assert made.record.settings["threads"] == 2


def test_engines_of_another_graph_are_refused_and_built_again(bundle: Bundle) -> None:
    record = build_cpu(bundle, CPU).record
    line = record.graphs["line"]
    foreign = msgspec.structs.replace(line, compiled_from=record.graphs["picture"].compiled_from)
    write_engine_record(
        engine_folder(bundle, "cpu"), msgspec.structs.replace(record, graphs={**record.graphs, "line": foreign})
    )
    with pytest.raises(BundleError, match="built from another graph"):
        open_session(bundle, "line")
    assert not build_cpu(bundle, CPU).cached


def test_a_precision_the_cpu_does_not_run_is_refused(bundle: Bundle) -> None:
    components = {
        name: msgspec.structs.replace(component, precision="bfloat16")
        for name, component in bundle.manifest.components.items()
    }
    write_manifest(bundle.folder, msgspec.structs.replace(bundle.manifest, components=components))
    with pytest.raises(RequestError, match="bfloat16") as refused:
        build_cpu(Bundle(bundle.folder), CPU)
    assert refused.value.exit_code == 2
    assert not (bundle.folder / "engines").exists()


def test_a_damaged_bundle_is_never_compiled(bundle: Bundle) -> None:
    _flip(bundle.folder / "weights" / "line.safetensors", -1)
    with pytest.raises(BundleError, match="damaged"):
        build_cpu(bundle, CPU)
    assert not engine_folder(bundle, "cpu").exists()


def test_a_failed_build_keeps_the_engines_that_stood(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    record = build_cpu(bundle, CPU, threads=1).record
    real = cpu._compile

    def fail_late(runtime: object, bundle: Bundle, name: str, folder: Path, threads: int | None) -> object:
        if name == "picture":
            raise WorkError("no space left")
        return real(runtime, bundle, name, folder, threads)

    monkeypatch.setattr(cpu, "_compile", fail_late)
    with pytest.raises(WorkError):
        build_cpu(bundle, CPU, threads=2)
    assert read_engine_record(bundle, "cpu") == record
    assert sorted(path.name for path in (bundle.folder / "engines").iterdir()) == [".cpu.lock", "cpu"]


def test_a_graph_onnx_runtime_refuses_is_a_work_error(bundle: Bundle) -> None:
    from unipic2_edge.runtime.bundle import FileEntry
    from unipic2_edge.runtime.files import sha256_of

    path = bundle.folder / "graphs" / "line.onnx"
    path.write_bytes(b"no graph at all")
    files = bundle.manifest.files | {"graphs/line.onnx": FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)}
    write_manifest(bundle.folder, msgspec.structs.replace(bundle.manifest, files=files))
    with pytest.raises(WorkError, match="could not compile line"):
        build_cpu(Bundle(bundle.folder), CPU)


_BUILD = """
import sys
from pathlib import Path
from unipic2_edge.engines.cpu import build_cpu
from unipic2_edge.engines.targets import find_target
from unipic2_edge.runtime.bundle import Bundle
print("ready", flush=True)
sys.stdin.readline()
print(build_cpu(Bundle(Path(sys.argv[1])), find_target("cpu")).cached)
"""


@pytest.mark.slow
def test_processes_that_ask_at_once_build_once(bundle: Bundle) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _BUILD, str(bundle.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert sorted(answers) == ["False", "True", "True", "True"]
