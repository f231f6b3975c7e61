"""Rows of a safetensors file, in each of its number formats; anything else is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from unipic2_edge.runtime.errors import BundleError
from unipic2_edge.runtime.qwen.embedding import TokenTable


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_rows_come_in_float32(tmp_path: Path, dtype: torch.dtype, metadata: dict[str, str] | None) -> None:
    rows = torch.randn(50, 6).to(dtype)
    save_file({"weight": rows}, tmp_path / "table.safetensors", metadata)
    table, ids = TokenTable(tmp_path / "table.safetensors"), np.array([49, 0, 7, 7])
    given = table(ids)
    assert table.shape == (50, 6)
    assert given.dtype == np.float32
    np.testing.assert_array_equal(given, rows[ids].float().numpy())
    given[:] = 0  # the caller's own, not the file's
    assert table(ids).any()


@pytest.mark.parametrize(
    "tensors",
    [{"a": torch.zeros(2, 2), "b": torch.zeros(2, 2)}, {"a": torch.zeros(4)}, {"a": torch.zeros(2, 2).long()}],
)
def test_other_tensors_are_refused(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, tmp_path / "table.safetensors")
    with pytest.raises(BundleError, match="not a table of embeddings"):
        TokenTable(tmp_path / "table.safetensors")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.safetensors"
    with pytest.raises(BundleError):
        TokenTable(path)
    save_file({"weight": torch.zeros(100, 10)}, path)
    whole = path.read_bytes()
    for damaged in (b"", whole[:5], whole[:40], whole[:-9], b"\xff" * 64, b"\x02" + bytes(7) + b"[]"):
        path.write_bytes(damaged)
        with pytest.raises(BundleError, match="not a table"):
            TokenTable(path)
