"""The namespace package: one import name, five folders, nothing that shadows a sibling."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

FOLDERS = ("training", "export", "engines", "runtime", "bench")


def test_no_init_file_breaks_the_namespace(root: Path) -> None:
    # With one, imports of the sibling folders fail at run time while mypy stays green.
    assert [str(path) for folder in FOLDERS for path in root.glob(f"{folder}/unipic2_edge/__init__.py")] == []


def test_every_folder_is_importable_side_by_side() -> None:
    for folder in FOLDERS:
        spec = find_spec(f"unipic2_edge.{folder}")
        assert spec is not None, folder
        assert spec.origin is not None
        assert Path(spec.origin).parts[-4:-1] == (folder, "unipic2_edge", folder)


@pytest.mark.slow
def test_the_wheel_installs_one_top_level_name(root: Path, tmp_path: Path) -> None:
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    made = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=root, capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(tmp_path / made.stdout.strip().splitlines()[-1]) as wheel:
        names = wheel.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"unipic2_edge"}
    assert {name.split("/")[1] for name in names if name.startswith("unipic2_edge/")} == set(FOLDERS)
    assert any(name.endswith("entry_points.txt") for name in names)


@pytest.mark.slow
def test_the_installed_wheel_answers_without_the_checkout(root: Path, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", f"from hatchling.build import build_wheel; build_wheel({str(tmp_path)!r})"],
        cwd=root,
        capture_output=True,
        check=True,
    )
    site = tmp_path / "site"
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    program = (
        f"import sys; sys.path.insert(0, {str(site)!r});"
        "from unipic2_edge.runtime import cli; print(cli.__file__); sys.exit(cli.main(['targets']))"
    )
    answer = subprocess.run(
        # -S keeps the editable install's path hook out; the libraries come in by PYTHONPATH.
        [sys.executable, "-S", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(Path(pytest.__file__).parents[1]), "PATH": ""},
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert str(site) in answer.stdout
    assert "cpu" in answer.stdout
