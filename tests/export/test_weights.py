"""One weights file that is safetensors and ONNX external data at once."""

from __future__ import annotations

import gc
import weakref
from functools import partial
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from onnx_ir.tensor_adapters import TorchTensor
from safetensors.torch import load_file

from unipic2_edge.export import weights
from unipic2_edge.export.weights import WrittenWeights, write_weights
from unipic2_edge.runtime.bundle import FileEntry
from unipic2_edge.runtime.errors import OutputError, WorkError
from unipic2_edge.runtime.files import sha256_of


def _tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "b.matrix": torch.randn(5, 7, generator=generator),
        "a.transposed": torch.randn(4, 6, generator=generator).T,
        "c.half": torch.randn(3, generator=generator).half(),
        "d.brain": torch.randn(2, 2, generator=generator).bfloat16(),
        "e.ids": torch.arange(9),
    }


def _write(path: Path) -> WrittenWeights:
    adapted: dict[str, ir.TensorProtocol] = {name: TorchTensor(tensor) for name, tensor in _tensors().items()}
    return write_weights(path, adapted)


def test_it_reads_as_safetensors_and_by_offset(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    places = _write(path).places
    stored, data = load_file(path), path.read_bytes()
    for name, tensor in _tensors().items():
        assert torch.equal(stored[name], tensor)
        offset, length = places[name]
        raw = torch.frombuffer(bytearray(data[offset : offset + length]), dtype=tensor.dtype)
        assert torch.equal(raw.reshape(tensor.shape), tensor)


def test_the_data_starts_aligned_and_the_bytes_are_always_the_same(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    places = _write(first).places
    _write(second)
    assert min(offset for offset, _ in places.values()) % 64 == 0
    assert first.read_bytes() == second.read_bytes()


def test_it_is_hashed_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    written = _write(path)
    assert written.entry == FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)


def test_lazy_tensors_are_read_in_name_order_and_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing queued, no more than the tensor being written is alive when the next one is read."""
    monkeypatch.setattr(weights, "_QUEUED", 0)
    alive: list[weakref.ref[torch.Tensor]] = []
    held: list[int] = []

    def read(value: int) -> TorchTensor:
        gc.collect()
        held.append(sum(tensor() is not None for tensor in alive))
        tensor = torch.full((1000,), float(value))
        alive.append(weakref.ref(tensor))
        return TorchTensor(tensor)

    lazy: dict[str, ir.TensorProtocol] = {
        f"w{index}": ir.LazyTensor(partial(read, index), ir.DataType.FLOAT, ir.Shape([1000])) for index in range(9)
    }
    write_weights(tmp_path / "weights.safetensors", dict(reversed(lazy.items())))
    stored = load_file(tmp_path / "weights.safetensors")
    assert [float(stored[f"w{index}"][0]) for index in range(9)] == list(range(9))
    assert len(held) == 9
    assert max(held) <= 2


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights._HashedFile, "_write", full)
    with pytest.raises(WorkError, match="no space left"):
        _write(tmp_path / "weights.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_an_impossible_place_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        _write(tmp_path / "missing" / "weights.safetensors")
