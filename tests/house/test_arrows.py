"""Who may import whom, and what the front door and the runtime may load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from unipic2_edge.runtime.cli import COMMANDS

FRAMEWORKS = {"torch", "transformers", "diffusers", "accelerate", "onnx", "onnxscript", "scipy", "tensorboard"}
LIBRARIES = {"numpy", "PIL", "msgspec", "onnxruntime", "tokenizers", "safetensors", "tqdm", "filelock", "psutil"}


def _loaded_by(program: str) -> set[str]:
    """Top-level names in `sys.modules` after a program, in a fresh process."""
    tail = "\nimport json, sys\nprint(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    answer = subprocess.run([sys.executable, "-c", program + tail], capture_output=True, text=True, check=True)
    return set(json.loads(answer.stdout.splitlines()[-1]))


def test_the_import_arrows_hold(root: Path) -> None:
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(cache_dir=None))"
    checked = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert "3 kept, 0 broken" in checked.stdout


def test_help_loads_the_standard_library_alone() -> None:
    program = "from unipic2_edge.runtime.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert _loaded_by(program) & (FRAMEWORKS | LIBRARIES) == set()


@pytest.mark.parametrize("module", sorted({module for module, _ in COMMANDS.values()}))
def test_describing_a_command_loads_no_framework(module: str) -> None:
    assert _loaded_by(f"import {module}") & FRAMEWORKS == set()


@pytest.mark.parametrize(
    "module",
    [
        "unipic2_edge.runtime.pipeline",
        "unipic2_edge.engines.cpu",
    ],
)
def test_serving_and_building_load_no_framework(module: str) -> None:
    loaded = _loaded_by(f"import {module}")
    assert "unipic2_edge" in loaded
    assert loaded & FRAMEWORKS == set()
