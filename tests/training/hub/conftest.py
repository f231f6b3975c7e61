"""The stand-in hub running, and repositories for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from unipic2_edge.training.checkpoint import Checkpoint
from unipic2_edge.training.layout import MODELS, TOKENIZERS

from .stub_hub import Handler, StubHub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StubHub]:
    """A hub that serves, and a fresh cache; as if HF_ENDPOINT and HF_HOME named them."""
    stub = StubHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": stub}))
    stub.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", stub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", stub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_URL_HOSTS", constants.HF_URL_HOSTS | {"127.0.0.1"})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield stub
    server.shutdown()
    server.server_close()
    thread.join()


#: What a repository holds beside a checkpoint, and what must not be fetched.
BESIDE = {
    "README.md": b"a card",
    "transformer/diffusion_pytorch_model.fp16.safetensors": b"half" * 300,
    "transformer/diffusion_pytorch_model.bin": b"pickled" * 500,
    "text_encoder/model.onnx": b"onnx" * 500,
}


@pytest.fixture
def kontext_files() -> dict[str, bytes]:
    """A Kontext repository as one is published, its files of the right names and no more."""
    files = dict(BESIDE)
    for part in MODELS:
        stem = "diffusion_pytorch_model" if part in ("transformer", "vae") else "model"
        files |= {f"{part}/config.json": part.encode(), f"{part}/{stem}.safetensors": part.encode() * 500}
    for part in TOKENIZERS:
        files |= {f"{part}/tokenizer.json": part.encode(), f"{part}/tokenizer_config.json": b"{}" + part.encode()}
    return files | {"scheduler/scheduler_config.json": b"{ }", "model_index.json": b"{}\n"}


@pytest.fixture
def real_files(tiny_checkpoint: Checkpoint) -> dict[str, bytes]:
    """A Kontext repository whose checkpoint can be loaded."""
    folder = tiny_checkpoint.folder
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths} | BESIDE


@pytest.fixture
def metaquery_files(kontext_files: dict[str, bytes]) -> dict[str, bytes]:
    """A MetaQuery repository: its language model stands elsewhere."""
    kept = {
        name: data
        for name, data in kontext_files.items()
        if name.partition("/")[0] in ("transformer", "vae", "scheduler")
    }
    return kept | {"conditioner/config.json": b"{}", "conditioner/model.safetensors": b"conditioner" * 200}


@pytest.fixture
def qwen_files() -> dict[str, bytes]:
    """A language model in two shards, with files of its kind."""
    shards = {f"model-0000{index}-of-00002.safetensors": bytes([index]) * 3000 for index in (1, 2)}
    index = json.dumps(
        {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    )
    names = ("config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "chat_template.json")
    small = {name: json.dumps({"name": name}).encode() for name in names}
    rest = {"vocab.json": b"{}", "merges.txt": b"", "model.onnx": b"x"}
    return shards | small | rest | {"model.safetensors.index.json": index.encode()}
