"""Fresh processes: what is loaded, how long the door takes, how a signal ends the work, whether bytes repeat."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

FORBIDDEN = ("torch", "transformers", "diffusers", "onnx", "scipy", "accelerate")
START = [sys.executable, "-m", "unipic2_edge.runtime.cli"]


def _python(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def _generate(folder: Path, output: Path, *words: str) -> list[str]:
    return [*START, "generate", str(folder), "a red circle", "-o", str(output), "--seed", "3", *words]


def test_generate_and_edit_load_no_framework(folder: Path, tmp_path: Path) -> None:
    loaded = _python(
        f"""
import json, sys
from unipic2_edge.runtime import Pipeline
pipeline = Pipeline.load({str(folder)!r})
picture = pipeline.generate("a red circle").images[0]
pipeline.edit(picture, "make the circle blue").images[0].save({str(tmp_path / "e.png")!r})
print(json.dumps(sorted(sys.modules)))
"""
    )
    names = json.loads(loaded)
    assert (tmp_path / "e.png").exists() and "onnxruntime" in names
    assert [name for name in names if name.partition(".")[0] in FORBIDDEN] == []


def test_importing_the_package_is_nearly_free() -> None:
    # Loaded modules instead of seconds: a busy machine cannot fail it, and an eager import cannot pass it.
    names = json.loads(_python("import json, sys, unipic2_edge.runtime; print(json.dumps(sorted(sys.modules)))"))
    assert not {"numpy", "PIL", "onnxruntime", "tokenizers", "msgspec"} & set(names)


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    import unipic2_edge.runtime as package

    assert package.Pipeline.__name__ == "Pipeline"
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        package.Nothing  # noqa: B018


def test_two_processes_make_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        done = subprocess.run(_generate(folder, tmp_path / name), capture_output=True, text=True, check=True)
        assert done.stderr == ""
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def _hear_ctrl_c() -> None:
    """A test run in a shell's background has SIGINT ignored, and its children would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks into /proc to see how far the process has come")
def test_ctrl_c_ends_with_one_mend_and_nothing_half_written(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "o.png"
    output.parent.mkdir()
    words = _generate(folder, output, "--steps", "1000", "-n", "512", "--verbose")
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    worker = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=_hear_ctrl_c
    )
    deadline = time.monotonic() + 30
    while "onnxruntime" not in Path(f"/proc/{worker.pid}/maps").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    worker.send_signal(signal.SIGINT)
    _, err = worker.communicate(timeout=60)
    assert worker.returncode == 1, err
    assert "stopped by the user" in err and "Traceback" not in err
    assert list(output.parent.iterdir()) == []


def test_a_closed_pipe_is_no_traceback(folder: Path) -> None:
    command = f"{sys.executable} -m unipic2_edge.runtime.cli inspect {folder} --json | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
