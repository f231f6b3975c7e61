"""The demo on a tiny model: what it leaves, what it keeps, what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from unipic2_edge.bench import demo
from unipic2_edge.bench.demo import STEPS, run_demo
from unipic2_edge.bench.showcase import EDITS, PROMPTS
from unipic2_edge.export import bundle_writer
from unipic2_edge.runtime.bundle import Bundle
from unipic2_edge.runtime.cli import Outcome
from unipic2_edge.runtime.errors import CheckpointError, OutputError
from unipic2_edge.runtime.settings import read_settings
from unipic2_edge.training.checkpoint import Checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, tiny_bundle: Path) -> tuple[Path, Outcome]:
    """A demo's folder and outcome; the bundle is given, so that the test exports once."""
    workdir = tmp_path_factory.mktemp("demo") / "out"
    shutil.copytree(tiny_bundle, workdir / "bundle")
    steps: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "_STARTS", 1)
        outcome = run_demo(workdir, tiny_checkpoint, scored=6, done=steps.append)
    assert tuple(steps) == STEPS
    return workdir, outcome


def test_it_leaves_what_it_promises(shown: tuple[Path, Outcome]) -> None:
    workdir, outcome = shown
    record = json.loads((workdir / "demo.json").read_text(encoding="utf-8"))
    assert record == json.loads(json.dumps(outcome.result))
    assert {path.name for path in workdir.iterdir()} == {"bundle", "pictures", "report.html", "demo.json"}
    assert [made["text"] for made in record["pictures"]] == [*(caption.text for caption in PROMPTS), *EDITS]
    assert {path.name for path in (workdir / "pictures").iterdir()} == {
        Path(made["path"]).name for made in record["pictures"]
    }
    assert record["scores"]["generation"]["total"] == record["scores"]["editing"]["total"] == 6
    assert all(seconds > 0 for seconds in record["seconds"]["stages"].values())


def test_its_pictures_carry_their_settings(shown: tuple[Path, Outcome]) -> None:
    workdir, outcome = shown
    for made in outcome.result["pictures"]:  # type: ignore[attr-defined]
        settings = read_settings(workdir / made["path"])
        assert settings.prompt == made["text"]
        assert settings.task == ("edit" if made["text"] in EDITS else "generate")
        with Image.open(workdir / made["path"]) as picture:
            assert picture.size == (64, 64)


def test_its_report_shows_every_prompt_verdict_and_score(shown: tuple[Path, Outcome]) -> None:
    workdir, _ = shown
    report = (workdir / "report.html").read_text(encoding="utf-8")
    for text in (*(caption.text for caption in PROMPTS), *EDITS, "color attribution", "recolor", "Machine"):
        assert text in report
    marks = report.count("✓ right") + report.count("✗ ")
    assert marks == len(PROMPTS) + len(EDITS) + 6 + 6


def test_a_bundle_that_fits_is_kept_and_a_damaged_one_exported_again(
    tmp_path: Path, tiny_bundle: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: list[Path] = []

    def export(checkpoint: Checkpoint, folder: Path, recipe: object) -> None:
        """Stands for the export, which takes most of a minute: refuses a folder that is there, as it does."""
        assert checkpoint.folder == tiny_checkpoint
        assert not folder.exists()
        exported.append(shutil.copytree(tiny_bundle, folder))

    monkeypatch.setattr(bundle_writer, "write_bundle", export)
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    assert demo._bundle(folder, tiny_checkpoint).folder == folder
    assert exported == []
    weights = folder / "weights" / "vae.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    bundle = demo._bundle(folder, tiny_checkpoint)
    assert exported == [folder]
    for relative in bundle.manifest.files:
        bundle.path(relative)


def test_a_bundle_of_another_checkpoint_or_version_does_not_fit(tiny_bundle: Path) -> None:
    bundle = Bundle(tiny_bundle)
    assert demo._fitting(tiny_bundle, bundle.manifest.source.sha256) is not None
    assert demo._fitting(tiny_bundle, "0" * 64) is None


def test_something_else_in_the_bundles_place_is_left_alone(tmp_path: Path, tiny_checkpoint: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="not the demo's bundle"):
        run_demo(tmp_path, tiny_checkpoint)
    assert (tmp_path / "bundle" / "thesis.txt").read_text() == "years of work"


def test_a_missing_checkpoint_is_said_and_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        run_demo(tmp_path / "out", tmp_path / "none")
    assert not (tmp_path / "out").exists()


def test_a_workdir_below_a_file_is_refused(tmp_path: Path, tiny_checkpoint: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        run_demo(tmp_path / "file" / "out", tiny_checkpoint)
