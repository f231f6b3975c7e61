"""A few-step, guidance-free bundle: its own steps, its own levels and one row for a picture, unasked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from unipic2_edge.runtime import Pipeline
from unipic2_edge.runtime.bundle import Bundle, FileEntry, TaskDefaults, write_manifest
from unipic2_edge.runtime.files import sha256_of
from unipic2_edge.runtime.onnx_session import OnnxRuntimeSession

Calls = list[tuple[str, dict[str, np.ndarray]]]


@pytest.fixture
def student(folder: Path) -> Path:
    """The hand-made bundle with the scheduler and defaults of a 4-step student."""
    path = folder / "host/scheduler.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"shift": 1.0, "shift_terminal": 0.25}))
    manifest = Bundle(folder).manifest
    default = TaskDefaults(height=32, width=32, num_inference_steps=4, guidance_scale=1.0)
    files = dict(manifest.files) | {"host/scheduler.json": FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)}
    defaults = {"generate": default, "edit": default}
    write_manifest(folder, msgspec.structs.replace(manifest, files=files, defaults=defaults))
    return folder


@pytest.mark.parametrize("edit", [False, True])
def test_it_runs_one_row_for_each_of_its_steps(student: Path, edit: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Calls = []
    run = OnnxRuntimeSession.run

    def recorded(self: OnnxRuntimeSession, inputs: Any) -> Any:
        calls.append((self.graph.file, dict(inputs)))
        return run(self, inputs)

    monkeypatch.setattr(OnnxRuntimeSession, "run", recorded)
    pipeline = Pipeline.load(student, "cpu", threads=1)
    if edit:
        result = pipeline.edit(Image.new("RGB", (32, 32)), "make the circle blue", seed=1)
    else:
        result = pipeline.generate("a red circle", seed=1)
    assert len(result.images) == 1
    denoised = [inputs for graph, inputs in calls if graph == "graphs/denoiser.onnx"]
    assert [inputs["patches"].shape[0] for inputs in denoised] == [1, 1, 1, 1]
    (modulated,) = [inputs for graph, inputs in calls if graph == "graphs/modulation.onnx"]
    assert modulated["pooled"].shape[0] == 1
    assert modulated["timestep"] == pytest.approx([1000, 750, 500, 250], rel=1e-5)
    read = [inputs["input_ids"].shape[0] for graph, inputs in calls if graph.startswith("graphs/text_encoder")]
    assert read == [1, 1, 1]
