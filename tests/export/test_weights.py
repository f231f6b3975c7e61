"""One weights file that is safetensors and ONNX external data at once."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from onnx_ir.tensor_adapters import TorchTensor
from safetensors.torch import load_file

from unipic2_edge.export.weights import write_weights
from unipic2_edge.runtime.errors import OutputError


def _tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "b.matrix": torch.randn(5, 7, generator=generator),
        "a.transposed": torch.randn(4, 6, generator=generator).T,
        "c.half": torch.randn(3, generator=generator).half(),
        "d.brain": torch.randn(2, 2, generator=generator).bfloat16(),
        "e.ids": torch.arange(9),
    }


def _write(path: Path) -> dict[str, tuple[int, int]]:
    adapted: dict[str, ir.TensorProtocol] = {name: TorchTensor(tensor) for name, tensor in _tensors().items()}
    return write_weights(path, adapted)


def test_it_reads_as_safetensors_and_by_offset(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    places = _write(path)
    stored, data = load_file(path), path.read_bytes()
    for name, tensor in _tensors().items():
        assert torch.equal(stored[name], tensor)
        offset, length = places[name]
        raw = torch.frombuffer(bytearray(data[offset : offset + length]), dtype=tensor.dtype)
        assert torch.equal(raw.reshape(tensor.shape), tensor)


def test_the_data_starts_aligned_and_the_bytes_are_always_the_same(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    places = _write(first)
    _write(second)
    assert min(offset for offset, _ in places.values()) % 64 == 0
    assert first.read_bytes() == second.read_bytes()


def test_an_impossible_place_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        _write(tmp_path / "missing" / "weights.safetensors")
