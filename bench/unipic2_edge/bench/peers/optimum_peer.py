"""Hugging Face optimum's ONNX pipeline as a peer: generation on ONNX Runtime, in an environment of its own.

The checkpoint is exported by optimum when the peer is opened. Its versions of transformers and diffusers exclude those
of this project, so it runs in another interpreter (`--python optimum=…/bin/python`), where this module is imported.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from .diffusing import diffuse
from .peer import GENERATE, CannotError, Job, Made, Peer, refuse

_LIBRARIES = ("optimum-onnx", "diffusers", "transformers", "onnxruntime")
#: Tokenizers that read tokenizer.json, by the names that transformers 5 gives them: those of 4 want other files.
_OLDER_NAMES = {"T5Tokenizer": "T5TokenizerFast", "CLIPTokenizer": "CLIPTokenizerFast"}


class OptimumPeer(Peer):
    """Pictures by optimum's pipeline.

    Args:
        pipeline: exported and opened.
    """

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        pipeline.set_progress_bar_config(disable=True)

    def make(self, job: Job) -> Made:
        """See `Peer.make`."""
        refuse(job, (GENERATE,), "optimum's SD3 pipeline takes no reference latents and has no step of its own")
        torch = import_module("torch")
        picture, latents = diffuse(self._pipeline, job, torch.from_numpy(job.latents))
        return Made(np.asarray(latents.float().cpu().numpy(), np.float32), picture)

    def about(self) -> Mapping[str, str]:
        """Versions of its environment."""
        return {name: version(name) for name in _LIBRARIES}


def open_peer(settings: Mapping[str, Any]) -> OptimumPeer:
    """A peer of `checkpoint`, on `threads`.

    Raises:
        CannotError: optimum is not installed in this interpreter.
    """
    try:
        optimum, runtime = import_module("optimum.onnxruntime"), import_module("onnxruntime")
    except ImportError as error:
        raise CannotError(
            f"optimum-onnx is not installed here ({error}); give an interpreter that has it: --python optimum=PATH"
        ) from error
    options = runtime.SessionOptions()
    if settings["threads"] is not None:
        options.intra_op_num_threads = settings["threads"]
        import_module("torch").set_num_threads(settings["threads"])
    with readable(Path(settings["checkpoint"])) as folder:
        pipeline = optimum.ORTStableDiffusion3Pipeline.from_pretrained(
            str(folder), export=True, provider="CPUExecutionProvider", session_options=options
        )
    return OptimumPeer(pipeline)


@contextlib.contextmanager
def readable(checkpoint: Path) -> Any:
    """The checkpoint as optimum's older transformers reads it: copied, its tokenizers' classes by their older names."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(checkpoint, Path(folder) / "checkpoint"))
        for path in copy.glob("tokenizer*/tokenizer_config.json"):
            config = json.loads(path.read_text(encoding="utf-8"))
            kept = {name: value for name, value in config.items() if name not in ("backend", "extra_special_tokens")}
            kept["tokenizer_class"] = _older(config["tokenizer_class"])
            path.write_text(json.dumps(kept), encoding="utf-8")
        index = copy / "model_index.json"
        parts = json.loads(index.read_text(encoding="utf-8"))
        older = {name: [part[0], _older(part[1])] if isinstance(part, list) else part for name, part in parts.items()}
        index.write_text(json.dumps(older), encoding="utf-8")
        yield copy


def _older(name: str) -> str:
    return _OLDER_NAMES.get(name, name)
