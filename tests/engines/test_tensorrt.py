"""Real compiles with TensorRT-RTX, without a card in the machine; and what its refusals become."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import msgspec
import pytest

from unipic2_edge.engines import worker
from unipic2_edge.engines.build import build_targets
from unipic2_edge.engines.engine_set import Options, engine_set
from unipic2_edge.engines.sizes import default_sizes
from unipic2_edge.engines.targets import targets_of
from unipic2_edge.engines.tensorrt import TensorRTCompiler, import_tensorrt
from unipic2_edge.engines.worker import compile_graph
from unipic2_edge.runtime.bundle import Bundle, FileEntry, write_manifest
from unipic2_edge.runtime.engine import EngineSpec, engine_path, read_target
from unipic2_edge.runtime.errors import MissingDependencyError, WorkError
from unipic2_edge.runtime.files import sha256_of

pytest.importorskip("tensorrt_rtx")


def _spec(bundle: Bundle, graph: str = "line") -> EngineSpec:
    options = Options(sizes=default_sizes(bundle.manifest))
    return next(job.spec for job in engine_set(bundle, targets_of("rtx-40"), options) if job.spec.graph == graph)


def test_three_cards_share_one_plan_and_one_copy_of_the_weights(bundle: Bundle) -> None:
    made = build_targets(bundle, "rtx-30,rtx-40,rtx-50")
    assert [built.targets for built in made] == [("rtx-30", "rtx-40", "rtx-50")] * 2
    for built in made:
        assert built.engine.spec.capabilities == ("8.6", "8.9", "12.0")
        assert engine_path(bundle, built.engine).stat().st_size == built.engine.bytes
        assert built.engine.weights_bytes is not None
        assert built.engine.activation_bytes is not None
        assert built.engine.build_peak_bytes is None or built.engine.build_peak_bytes > 50e6
    records = [read_target(bundle, name) for name in ("rtx-30", "rtx-40", "rtx-50")]
    assert len({tuple(record.engines.items()) for record in records if record is not None}) == 1


def test_a_plan_for_three_serves_one_without_compiling(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    build_targets(bundle, "rtx-30,rtx-40,rtx-50")
    monkeypatch.setattr("unipic2_edge.engines.build.compile_graph", None)
    assert all(built.cached for built in build_targets(bundle, "rtx-50"))


def test_plans_are_the_same_bytes_twice(bundle: Bundle, tmp_path: Path) -> None:
    digests = set()
    for name in "ab":
        compile_graph(bundle, _spec(bundle), tmp_path / name, lambda phase, share: None)
        digests.add(sha256_of(tmp_path / name))
    assert len(digests) == 1


def test_a_library_without_pointers_to_weights_maps_the_file_itself(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT before 10.7, JetPack 6's, has no `load_initializer`."""
    spec, quiet = _spec(bundle), lambda phase, share: None
    TensorRTCompiler().compile(bundle, spec, tmp_path / "with", quiet)
    library = import_tensorrt("tensorrt_rtx")

    class OldParser:
        def __init__(self, *arguments: object) -> None:
            self._parser = library.OnnxParser(*arguments)
            self.parse = self._parser.parse
            self.num_errors = 0

    monkeypatch.setattr("unipic2_edge.engines.tensorrt.import_tensorrt", lambda name: _With(library, OldParser))
    TensorRTCompiler().compile(bundle, spec, tmp_path / "without", quiet)
    assert (tmp_path / "with").read_bytes() == (tmp_path / "without").read_bytes()


class _With:
    """A library with another parser."""

    def __init__(self, library: object, parser: type) -> None:
        self._library, self.OnnxParser = library, parser

    def __getattr__(self, name: str) -> object:
        return getattr(self._library, name)


def test_progress_is_told_phase_by_phase(bundle: Bundle, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    compile_graph(bundle, _spec(bundle), tmp_path / "plan", lambda phase, share: told.append((phase, share)))
    assert told
    assert all(0.0 <= share <= 1.0 for _, share in told)
    assert told[-1][1] == 1.0


def test_a_graph_the_parser_does_not_read_is_explained_in_one_line(bundle: Bundle, tmp_path: Path) -> None:
    path = bundle.folder / "graphs" / "line.onnx"
    path.write_bytes(path.read_bytes().replace(b"Relu", b"Rely"))
    files = bundle.manifest.files | {"graphs/line.onnx": FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)}
    write_manifest(bundle.folder, msgspec.structs.replace(bundle.manifest, files=files))
    with pytest.raises(WorkError) as refused:
        build_targets(Bundle(bundle.folder), "rtx-40")
    assert "cannot read the graph line" in refused.value.problem
    assert "Rely" in refused.value.problem
    assert "\n" not in refused.value.problem
    assert read_target(bundle, "rtx-40") is None


def test_what_the_compiler_refuses_names_its_reason_and_the_mend(bundle: Bundle, tmp_path: Path) -> None:
    turing = msgspec.structs.replace(_spec(bundle), capabilities=("7.5",))
    with pytest.raises(WorkError, match="FP32 GEMM") as refused:
        compile_graph(bundle, turing, tmp_path / "plan", lambda phase, share: None)
    assert "recipe" in refused.value.mend
    assert not (tmp_path / "plan").exists()


def test_a_compiler_that_dies_is_a_work_error(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_work", _die)
    with pytest.raises(WorkError, match="died") as died:
        compile_graph(bundle, _spec(bundle), tmp_path / "plan", lambda phase, share: None)
    assert "memory" in died.value.mend


def _die(*arguments: object) -> None:
    sys.exit(9)


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt_rtx"])
def test_a_library_that_does_not_load_names_the_extra(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, backend, None)
    with pytest.raises(MissingDependencyError) as missing:
        import_tensorrt(backend)
    assert "unipic2-edge[" in missing.value.mend
    assert ("JetPack" in missing.value.mend) == (backend == "tensorrt")


def test_the_librarys_chatter_goes_to_the_log(
    bundle: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        TensorRTCompiler().compile(bundle, _spec(bundle), tmp_path / "plan", lambda phase, share: None)
    assert capfd.readouterr().out == ""
    assert any("Memory" in record.message for record in caplog.records)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "targets", "engines"),
    [("fp32", "rtx-30,a100,rtx-40,rtx-50", 7), ("fp16", "rtx-20,rtx-50", 14), ("bf16", "rtx-30,rtx-40,rtx-50", 7)],
)
def test_the_tiny_model_compiles_for_every_card(
    tiny_checkpoint: Path, tmp_path: Path, recipe: str, targets: str, engines: int
) -> None:
    """All seven graphs. RTX 20 has no 32-bit products and no bfloat16: it is served in fp16."""
    from unipic2_edge.export.builtin_recipes import find_recipe
    from unipic2_edge.export.bundle_writer import write_bundle
    from unipic2_edge.training.checkpoint import Checkpoint

    write_bundle(Checkpoint.open(tiny_checkpoint), tmp_path / "bundle", find_recipe(recipe))
    bundle = Bundle(tmp_path / "bundle")
    made = build_targets(bundle, targets)
    assert len(made) == engines
    for target in targets.split(","):
        record = read_target(bundle, target)
        assert record is not None
        assert set(record.engines) == set(bundle.manifest.graphs)
